//! What the user types for a store, a volume, or a file in one.
//!
//! ```text
//! s3://BUCKET[/PREFIX]/NAME[?endpoint=URL][&region=NAME][&path_style=BOOL]
//! file:///DIRECTORY/NAME
//! ```
//!
//! A store's URL is a volume's without the last part. Credentials are never part of it. Bare names are resolved against
//! a store's URL by `config`, with [`VolumeUrl::in_store`].

use std::fmt;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

use url::Url;

/// Longest volume name, bytes; it is part of a key.
pub const VOLUME_NAME_BYTES_MAX: usize = 128;
/// Longest prefix inside a bucket, bytes: S3 keys have 1,024, of which the keys of the port take half.
const PREFIX_BYTES_MAX: usize = 400;

/// Why a store or volume cannot be understood; each message says what would be right.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum StoreUrlError {
    /// Not a URL, or of a form that we do not know.
    #[error("{text}: {reason}")]
    Syntax {
        /// What was typed, without anything secret in it.
        text: String,
        /// What is wrong.
        reason: String,
    },
    /// A volume name that cannot be one.
    #[error(
        "{name:?} is no volume name: use letters, digits, '.', '_' and '-', beginning with a letter or digit, \
         at most {VOLUME_NAME_BYTES_MAX} bytes"
    )]
    Name {
        /// The name.
        name: String,
    },
}

/// Where a store is.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub enum StoreUrl {
    /// A bucket, or a prefix in one.
    S3(S3Url),
    /// A local directory, by its absolute path.
    Dir(PathBuf),
}

/// A bucket or a prefix in it, and how to reach it.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct S3Url {
    /// The bucket.
    pub bucket: String,
    /// Without slashes at the ends; empty for the whole bucket.
    pub prefix: String,
    /// Of another provider than AWS: `http://` or `https://`, host and port.
    pub endpoint: Option<String>,
    /// `None`: from the environment or profile, else `us-east-1`.
    pub region: Option<String>,
    /// Bucket in the path instead of the host name; `None`: in the path when an endpoint is given.
    pub path_style: Option<bool>,
}

/// A volume: a store and a name in it.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct VolumeUrl {
    /// Where it is.
    pub store: StoreUrl,
    /// Its name there.
    pub name: String,
}

/// Whether a name can be a volume's: it becomes part of a key and of file names.
pub fn check_volume_name(name: &str) -> Result<(), StoreUrlError> {
    let legal = name
        .bytes()
        .all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-'));
    let begins = name
        .bytes()
        .next()
        .is_some_and(|byte| byte.is_ascii_alphanumeric());
    if legal && begins && name.len() <= VOLUME_NAME_BYTES_MAX {
        Ok(())
    } else {
        Err(StoreUrlError::Name {
            name: name.chars().take(VOLUME_NAME_BYTES_MAX + 1).collect(),
        })
    }
}

/// Splits `VOLUME:/path` into the volume and the path with its slash; `None` when no path is named. The path begins at
/// the first `:/` that is not the `://` of a URL.
pub fn split_volume_path(text: &str) -> (&str, Option<&str>) {
    for (at, _) in text.match_indices(":/") {
        let path = &text[at + 1..];
        if !path.starts_with("//") {
            return (&text[..at], Some(path));
        }
    }
    (text, None)
}

impl StoreUrl {
    /// Whether a text is meant as a URL rather than as a bare name.
    pub fn is_url(text: &str) -> bool {
        text.contains("://")
    }

    /// Understands a store's URL.
    pub fn parse(text: &str) -> Result<StoreUrl, StoreUrlError> {
        let url = Url::parse(text).map_err(|error| syntax(text, &error.to_string()))?;
        if !url.username().is_empty() || url.password().is_some() {
            return Err(syntax(
                text,
                "credentials do not belong into a URL: use the AWS credential chain",
            ));
        }
        if url.fragment().is_some() {
            return Err(syntax(
                text,
                "'#' has no meaning here: write %23 if it is part of a path",
            ));
        }
        match url.scheme() {
            "s3" => parse_s3(text, &url).map(StoreUrl::S3),
            "file" => parse_file(text, &url).map(StoreUrl::Dir),
            _ => Err(syntax(text, "a store begins with s3:// or file:///")),
        }
    }
}

impl VolumeUrl {
    /// Understands a volume's URL.
    pub fn parse(text: &str) -> Result<VolumeUrl, StoreUrlError> {
        let (store, name) = match StoreUrl::parse(text)? {
            StoreUrl::S3(mut s3) => {
                let whole = std::mem::take(&mut s3.prefix);
                let (prefix, name) = whole.rsplit_once('/').unwrap_or(("", &whole));
                s3.prefix = prefix.to_string();
                (StoreUrl::S3(s3), name.to_string())
            }
            StoreUrl::Dir(path) => match (path.parent(), path.file_name()) {
                (Some(parent), Some(name)) => (
                    StoreUrl::Dir(parent.to_path_buf()),
                    name.to_string_lossy().into_owned(),
                ),
                _ => (StoreUrl::Dir(path), String::new()),
            },
        };
        if name.is_empty() {
            return Err(syntax(text, "names a store; a volume's name has to follow"));
        }
        check_volume_name(&name)?;
        Ok(VolumeUrl { store, name })
    }

    /// The volume of a bare name in a store.
    pub fn in_store(store: StoreUrl, name: &str) -> Result<VolumeUrl, StoreUrlError> {
        check_volume_name(name)?;
        Ok(VolumeUrl {
            store,
            name: name.to_string(),
        })
    }
}

impl fmt::Display for StoreUrl {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write_url(out, self, None)
    }
}

impl fmt::Display for VolumeUrl {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write_url(out, &self.store, Some(&self.name))
    }
}

/// In a form that `parse` understands as the same value.
fn write_url(out: &mut fmt::Formatter<'_>, store: &StoreUrl, name: Option<&str>) -> fmt::Result {
    match store {
        StoreUrl::Dir(path) => {
            out.write_str("file://")?;
            let path = path.as_os_str().as_bytes();
            write_escaped(out, if name.is_some() && path == b"/" { b"" } else { path })?;
            name.map_or(Ok(()), |name| write!(out, "/{name}"))
        }
        StoreUrl::S3(s3) => {
            write!(out, "s3://{}", s3.bucket)?;
            for part in [Some(s3.prefix.as_str()), name].into_iter().flatten() {
                if !part.is_empty() {
                    out.write_str("/")?;
                    write_escaped(out, part.as_bytes())?;
                }
            }
            let path_style = s3.path_style.map(|on| on.to_string());
            let query = [
                ("endpoint", &s3.endpoint),
                ("region", &s3.region),
                ("path_style", &path_style),
            ];
            let given = query
                .into_iter()
                .filter_map(|(name, value)| Some((name, value.as_ref()?)));
            for (index, (name, value)) in given.enumerate() {
                write!(out, "{}{name}={value}", if index == 0 { '?' } else { '&' })?;
            }
            Ok(())
        }
    }
}

fn write_escaped(out: &mut fmt::Formatter<'_>, path: &[u8]) -> fmt::Result {
    for &byte in path {
        if byte.is_ascii_alphanumeric() || b"/._-~+@,=".contains(&byte) {
            write!(out, "{}", char::from(byte))?;
        } else {
            write!(out, "%{byte:02X}")?;
        }
    }
    Ok(())
}

/// Repeats what was typed unless it seems to hold a password.
fn syntax(text: &str, reason: &str) -> StoreUrlError {
    let authority = text
        .split_once("://")
        .map_or("", |(_, rest)| rest.split('/').next().unwrap_or(""));
    let text = if authority.contains('@') { "the URL" } else { text };
    StoreUrlError::Syntax {
        text: text.chars().take(300).collect(),
        reason: reason.to_string(),
    }
}

fn unescape(text: &str) -> Option<Vec<u8>> {
    let mut bytes = text.bytes();
    let mut out = Vec::with_capacity(text.len());
    while let Some(byte) = bytes.next() {
        if byte != b'%' {
            out.push(byte);
            continue;
        }
        let digits = [bytes.next()?, bytes.next()?];
        out.push(u8::from_str_radix(std::str::from_utf8(&digits).ok()?, 16).ok()?);
    }
    Some(out)
}

fn parse_file(text: &str, url: &Url) -> Result<PathBuf, StoreUrlError> {
    if url.host_str().is_some_and(|host| !host.is_empty()) {
        return Err(syntax(
            text,
            "a local directory is written with three slashes, file:///dir",
        ));
    }
    if url.query().is_some() {
        return Err(syntax(
            text,
            "a local directory takes no options: write %3F for '?' in a path",
        ));
    }
    let bytes = unescape(url.path()).ok_or_else(|| syntax(text, "'%' is not followed by two digits"))?;
    if bytes.contains(&0) {
        return Err(syntax(text, "a path has no zero byte"));
    }
    let path = PathBuf::from(std::ffi::OsString::from_vec(bytes));
    // Components drop doubled and trailing slashes; the URL parser has resolved "..", except where escaped.
    let clean: PathBuf = path.components().collect();
    if clean.components().any(|part| part.as_os_str() == "..") || !clean.starts_with(Path::new("/")) {
        return Err(syntax(text, "the path has to be absolute and without '..'"));
    }
    Ok(clean)
}

fn parse_s3(text: &str, url: &Url) -> Result<S3Url, StoreUrlError> {
    let bucket = url.host_str().unwrap_or("").to_string();
    let legal = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-');
    if bucket.len() < 3 || bucket.len() > 255 || !bucket.bytes().all(legal) {
        return Err(syntax(text, "the part after s3:// has to be a bucket's name"));
    }
    if url.port().is_some() {
        return Err(syntax(
            text,
            "the part after s3:// is the bucket; write ?endpoint=http://host:port",
        ));
    }
    let path = unescape(url.path()).and_then(|bytes| String::from_utf8(bytes).ok());
    let prefix = path
        .ok_or_else(|| syntax(text, "the prefix has to be UTF-8"))?
        .trim_matches('/')
        .to_string();
    let odd = |part: &str| part.is_empty() || part == "." || part == "..";
    if prefix.len() > PREFIX_BYTES_MAX
        || prefix.chars().any(char::is_control)
        || (!prefix.is_empty() && prefix.split('/').any(odd))
    {
        return Err(syntax(
            text,
            "the prefix is too long or has empty or dotted parts",
        ));
    }
    let mut s3 = S3Url {
        bucket,
        prefix,
        endpoint: None,
        region: None,
        path_style: None,
    };
    for (name, value) in url.query_pairs() {
        match name.as_ref() {
            "endpoint" => s3.endpoint = Some(check_endpoint(text, &value)?),
            "region" if !value.is_empty() && value.bytes().all(legal) => s3.region = Some(value.into_owned()),
            "region" => return Err(syntax(text, "region has to be a region's name")),
            "path_style" => match value.as_ref() {
                "true" | "1" => s3.path_style = Some(true),
                "false" | "0" => s3.path_style = Some(false),
                _ => return Err(syntax(text, "path_style is true or false")),
            },
            other => {
                let reason = format!("unknown option {other:?}; known are endpoint, region and path_style");
                return Err(syntax(text, &reason));
            }
        }
    }
    Ok(s3)
}

/// An endpoint without a scheme is meant as https.
fn check_endpoint(text: &str, value: &str) -> Result<String, StoreUrlError> {
    let full = if value.contains("://") {
        value.to_string()
    } else {
        format!("https://{value}")
    };
    let url = Url::parse(&full).map_err(|error| syntax(text, &format!("endpoint: {error}")))?;
    // The parser drops some of these; others would be read as something else when the URL is shown and read again.
    let odd = |c: char| c.is_control() || c.is_whitespace() || "#&+%".contains(c);
    // It also mends what begins otherwise, such as http:host.
    let begins = ["http://", "https://"].iter().any(|scheme| {
        full.get(..scheme.len())
            .is_some_and(|start| start.eq_ignore_ascii_case(scheme))
    });
    if !begins || url.host_str().is_none() || full.contains(odd) {
        return Err(syntax(
            text,
            "endpoint has to be http://host:port or https://host:port",
        ));
    }
    if !url.username().is_empty() || url.password().is_some() || url.query().is_some() {
        return Err(syntax("the endpoint", "takes neither credentials nor options"));
    }
    Ok(full.trim_end_matches('/').to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn s3(text: &str) -> S3Url {
        match StoreUrl::parse(text).unwrap() {
            StoreUrl::S3(s3) => s3,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn an_s3_volume_is_bucket_prefix_name_and_options() {
        let text = "s3://bucket/a/b/name?endpoint=http://127.0.0.1:9000&region=eu-1&path_style=true";
        let volume = VolumeUrl::parse(text).unwrap();
        assert_eq!(volume.name, "name");
        let store = S3Url {
            bucket: "bucket".into(),
            prefix: "a/b".into(),
            endpoint: Some("http://127.0.0.1:9000".into()),
            region: Some("eu-1".into()),
            path_style: Some(true),
        };
        assert_eq!(volume.store, StoreUrl::S3(store));
        assert_eq!(volume.to_string(), text);
        assert_eq!(
            VolumeUrl::parse("s3://bucket/name").unwrap().to_string(),
            "s3://bucket/name"
        );
        assert_eq!(s3("s3://bucket").prefix, "");
        assert_eq!(
            s3("s3://bucket/a/?endpoint=h.example").endpoint.unwrap(),
            "https://h.example"
        );
        assert_eq!(
            s3("s3://bucket?endpoint=http%3A%2F%2Fh%3A1").endpoint.unwrap(),
            "http://h:1"
        );
    }

    #[test]
    fn a_directory_volume_is_a_path() {
        let volume = VolumeUrl::parse("file:///srv/my%20dir//name/").unwrap();
        assert_eq!(volume.store, StoreUrl::Dir("/srv/my dir".into()));
        assert_eq!(volume.name, "name");
        assert_eq!(volume.to_string(), "file:///srv/my%20dir/name");
        assert_eq!(
            VolumeUrl::parse("file:///name").unwrap().to_string(),
            "file:///name"
        );
        let bare = VolumeUrl::in_store(StoreUrl::parse("file:///srv").unwrap(), "data").unwrap();
        assert_eq!(bare.to_string(), "file:///srv/data");
    }

    #[test]
    fn every_url_reads_back_as_itself() {
        for text in [
            "file:///a%3Fb%23c%25/d",
            "s3://bucket/a%20b/c?region=x",
            "s3://bucket",
            "file:///",
        ] {
            let store = StoreUrl::parse(text).unwrap();
            assert_eq!(StoreUrl::parse(&store.to_string()).unwrap(), store, "{text}");
        }
    }

    #[test]
    fn what_is_wrong_is_refused_and_secrets_are_not_repeated() {
        for text in [
            "name",
            "http://bucket/name",
            "file://host/dir",
            "file:///dir?x=1",
            "s3://",
            "s3://b/name",
            "s3://bucket:9000/name",
            "s3://bucket/a//b",
            "s3://bucket/name?endpoint=ftp://x",
            // Found by the fuzz target `names`: what was shown of it was another endpoint.
            "s3://bucket/name?endpoint=http://127.0.0.1:9000%00%00",
            "s3://bucket/name?endpoint=http://x/%26region=y",
            "s3://bucket/name?endpoint=http://x/%2B",
            "s3://bucket/name?endpoint=http:2/is3://",
            "s3://bucket/name?path_style=yes",
            "s3://bucket/name?secret=x",
            "s3://bucket/a#b",
        ] {
            assert!(StoreUrl::parse(text).is_err(), "{text}");
        }
        for text in [
            "s3://bucket",
            "s3://bucket/",
            "file:///",
            "s3://bucket/.name",
            "file:///dir/a%20b",
        ] {
            assert!(VolumeUrl::parse(text).is_err(), "{text}");
        }
        let error = StoreUrl::parse("s3://key:hunter2@bucket/name").unwrap_err();
        assert!(!error.to_string().contains("hunter2"), "{error}");
        let error = StoreUrl::parse("s3://bucket?endpoint=http://key:hunter2@h").unwrap_err();
        assert!(!error.to_string().contains("hunter2"), "{error}");
    }

    #[test]
    fn names_are_bounded() {
        assert!(check_volume_name("My-data_1.v2").is_ok());
        for name in ["", ".a", "-a", "a/b", "a b", "ä", &"a".repeat(129)] {
            assert!(check_volume_name(name).is_err(), "{name:?}");
        }
    }

    #[test]
    fn a_path_follows_the_first_single_slash_after_a_colon() {
        assert_eq!(split_volume_path("data:/a/b:/c"), ("data", Some("/a/b:/c")));
        assert_eq!(split_volume_path("data"), ("data", None));
        assert_eq!(
            split_volume_path("s3://bucket/n:/x"),
            ("s3://bucket/n", Some("/x"))
        );
        let text = "s3://bucket/n?endpoint=http://h:9000:/x/y";
        assert_eq!(
            split_volume_path(text),
            ("s3://bucket/n?endpoint=http://h:9000", Some("/x/y"))
        );
        assert_eq!(
            split_volume_path("file:///srv/n:/x"),
            ("file:///srv/n", Some("/x"))
        );
        assert_eq!(split_volume_path("s3://bucket/n"), ("s3://bucket/n", None));
    }
}

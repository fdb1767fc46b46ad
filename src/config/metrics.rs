//! `--metrics`: where Prometheus may ask.

use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::str::FromStr;

/// A place for scrapes that only this machine (or pod) can reach.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum MetricsAddress {
    /// A loopback address; port 0 takes any free one.
    Tcp(SocketAddr),
    /// A Unix socket.
    Unix(PathBuf),
}

impl fmt::Display for MetricsAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            MetricsAddress::Tcp(address) => address.fmt(f),
            MetricsAddress::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

/// Why a text is no such place.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum MetricsAddressError {
    /// Neither form.
    #[error("{0:?} is neither ADDRESS:PORT, such as 127.0.0.1:9187, nor unix:/path")]
    Unreadable(String),
    /// Others could ask.
    #[error(
        "{0} can be reached from outside; metrics are served on loopback (127.0.0.1, ::1) or a Unix socket only"
    )]
    NotLoopback(SocketAddr),
    /// A socket in the current directory would be lost.
    #[error("unix:{0} needs an absolute path")]
    Relative(String),
}

impl FromStr for MetricsAddress {
    type Err = MetricsAddressError;

    fn from_str(text: &str) -> Result<MetricsAddress, MetricsAddressError> {
        if let Some(path) = text.strip_prefix("unix:") {
            if !path.starts_with('/') {
                return Err(MetricsAddressError::Relative(path.to_owned()));
            }
            return Ok(MetricsAddress::Unix(path.into()));
        }
        let numeric = text
            .strip_prefix("localhost:")
            .map_or_else(|| text.to_owned(), |port| format!("127.0.0.1:{port}"));
        let address: SocketAddr = numeric
            .parse()
            .map_err(|_| MetricsAddressError::Unreadable(text.to_owned()))?;
        if !address.ip().is_loopback() {
            return Err(MetricsAddressError::NotLoopback(address));
        }
        Ok(MetricsAddress::Tcp(address))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_this_machine_may_ask() {
        let read = |text: &str| text.parse::<MetricsAddress>().map(|address| address.to_string());
        assert_eq!(read("127.0.0.1:9187").unwrap(), "127.0.0.1:9187");
        assert_eq!(read("localhost:0").unwrap(), "127.0.0.1:0");
        assert_eq!(read("[::1]:9187").unwrap(), "[::1]:9187");
        assert_eq!(read("unix:/run/m.sock").unwrap(), "unix:/run/m.sock");
        assert!(matches!(
            read("0.0.0.0:1"),
            Err(MetricsAddressError::NotLoopback(_))
        ));
        assert!(matches!(
            read("unix:m.sock"),
            Err(MetricsAddressError::Relative(_))
        ));
        assert!(matches!(read("9187"), Err(MetricsAddressError::Unreadable(_))));
    }
}

//! Sizes and durations as people write them.

use std::time::Duration;

/// Why a size or duration cannot be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is not {what}")]
pub struct QuantityError {
    text: String,
    what: &'static str,
}

/// Reads `4096`, `64K`, `10G`, `1.5TiB`: powers of 1,024, case and a trailing `B` or `iB` do not matter.
///
/// # Errors
/// Anything else, negative numbers, and more than 2^64 bytes.
pub fn parse_bytes(text: &str) -> Result<u64, QuantityError> {
    let err = || QuantityError {
        text: text.into(),
        what: "a size such as 512M, 10G or 1.5T",
    };
    let lower = text.trim().to_ascii_lowercase();
    let stem = lower
        .strip_suffix("ib")
        .or_else(|| lower.strip_suffix('b'))
        .unwrap_or(&lower);
    let digits_end = stem
        .find(|c: char| !c.is_ascii_digit() && c != '.')
        .unwrap_or(stem.len());
    let (number, unit) = stem.split_at(digits_end);
    let shift = match unit.trim() {
        "" => 0,
        "k" => 10,
        "m" => 20,
        "g" => 30,
        "t" => 40,
        "p" => 50,
        _ => return Err(err()),
    };
    if let Ok(whole) = number.parse::<u64>() {
        return whole.checked_mul(1 << shift).ok_or_else(err);
    }
    let value: f64 = number.parse().map_err(|_| err())?;
    let bytes = value * (1u64 << shift) as f64;
    if bytes.is_finite() && (0.0..1.8e19).contains(&bytes) {
        Ok(bytes as u64)
    } else {
        Err(err())
    }
}

/// Smallest number of bytes that is taken without a unit: nobody means fewer, and who types 50 means 50 GiB.
const BARE_BYTES_MIN: u64 = 1 << 20;

/// Reads a size as [`parse_bytes`] does, for an option; 0 is nothing at all.
///
/// # Errors
/// As there, and small numbers without a unit.
pub fn parse_size(text: &str) -> Result<u64, String> {
    let bytes = parse_bytes(text).map_err(|e| e.to_string())?;
    if is_bare(text) && (1..BARE_BYTES_MIN).contains(&bytes) {
        return Err(format!(
            "without a unit that is {bytes} bytes: write {bytes}M or {bytes}G"
        ));
    }
    Ok(bytes)
}

/// Without a unit.
fn is_bare(text: &str) -> bool {
    text.trim().chars().all(|c| c.is_ascii_digit() || c == '.')
}

/// Reads `30`, `30s`, `5m`, `1h30m`, `7d`, `250ms`; a bare number is seconds, a day has 24 hours.
///
/// # Errors
/// Anything else; months and years, which have no length of their own.
pub fn parse_duration(text: &str) -> Result<Duration, QuantityError> {
    let err = || QuantityError {
        text: text.into(),
        what: "a duration such as 30s, 5m, 1h30m or 7d",
    };
    let lower = text.trim().to_ascii_lowercase();
    if !lower.is_empty() && lower.chars().all(|c| c.is_ascii_digit()) {
        return lower.parse().map(Duration::from_secs).map_err(|_| err());
    }
    let span: jiff::Span = lower.parse().map_err(|_| err())?;
    if span.is_negative() || span.get_years() != 0 || span.get_months() != 0 {
        return Err(err());
    }
    let units = [
        (i64::from(span.get_weeks()), 7 * 86_400),
        (i64::from(span.get_days()), 86_400),
        (i64::from(span.get_hours()), 3600),
        (span.get_minutes(), 60),
        (span.get_seconds(), 1),
    ];
    let mut seconds = 0u64;
    for (number, length) in units {
        let number = u64::try_from(number).map_err(|_| err())?;
        seconds = number
            .checked_mul(length)
            .and_then(|more| seconds.checked_add(more))
            .ok_or_else(err)?;
    }
    let small = |number: i64| u64::try_from(number).map_err(|_| err());
    let less = Duration::from_millis(small(span.get_milliseconds())?)
        .checked_add(Duration::from_micros(small(span.get_microseconds())?))
        .and_then(|time| time.checked_add(Duration::from_nanos(span.get_nanoseconds().unsigned_abs())));
    Duration::from_secs(seconds)
        .checked_add(less.ok_or_else(err)?)
        .ok_or_else(err)
}

/// Reads how long to wait: at least a second.
///
/// # Errors
/// As [`parse_duration`], and less.
pub fn parse_timeout(text: &str) -> Result<Duration, String> {
    let time = parse_duration(text).map_err(|e| e.to_string())?;
    match time < Duration::from_secs(1) {
        true => Err("at least 1s".to_owned()),
        false => Ok(time),
    }
}

/// Reads a time of which a bare number below `seconds_min` was hardly meant as seconds.
///
/// # Errors
/// As [`parse_duration`], and such numbers.
pub fn parse_with_unit(text: &str, seconds_min: u64, unit: char) -> Result<Duration, String> {
    let time = parse_duration(text).map_err(|e| e.to_string())?;
    let number = time.as_secs();
    if is_bare(text) && (1..seconds_min).contains(&number) {
        let second = if number == 1 { "second" } else { "seconds" };
        return Err(format!(
            "without a unit that is {number} {second}: write {number}s or {number}{unit}"
        ));
    }
    Ok(time)
}

/// `1 file`, `2 files`.
pub fn format_count(number: u64, one: &str) -> String {
    match number {
        1 => format!("1 {one}"),
        more => format!("{more} {one}s"),
    }
}

/// A size for people: three digits, units of 1,024.
pub fn format_bytes(bytes: u64) -> String {
    const UNITS: [&str; 6] = ["KiB", "MiB", "GiB", "TiB", "PiB", "EiB"];
    if bytes < 1024 {
        return format!("{bytes} B");
    }
    let mut value = bytes as f64 / 1024.0;
    let mut unit = 0;
    while value >= 1023.95 && unit + 1 < UNITS.len() {
        value /= 1024.0;
        unit += 1;
    }
    if value >= 99.95 {
        format!("{value:.0} {}", UNITS[unit])
    } else {
        format!("{value:.1} {}", UNITS[unit])
    }
}

/// A duration for people: the two largest units.
pub fn format_duration(seconds: u64) -> String {
    match seconds {
        0..60 => format!("{seconds} s"),
        60..3600 => format!("{} min {} s", seconds / 60, seconds % 60),
        3600..86_400 => format!("{} h {} min", seconds / 3600, seconds % 3600 / 60),
        _ => format!("{} d {} h", seconds / 86_400, seconds % 86_400 / 3600),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_read_as_people_write_them() {
        for (text, bytes) in [
            ("0", 0),
            ("4096", 4096),
            ("64K", 65536),
            ("64kib", 65536),
            ("10 G", 10 << 30),
            ("1.5T", 3 << 39),
            ("512mb", 512 << 20),
        ] {
            assert_eq!(parse_bytes(text), Ok(bytes), "{text}");
        }
        for bad in ["", "G", "-1", "1X", "1e99P", "99999999999P", "1..5G"] {
            assert!(parse_bytes(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn durations_are_read_as_people_write_them() {
        assert_eq!(parse_duration("30"), Ok(Duration::from_secs(30)));
        assert_eq!(parse_duration("5m"), Ok(Duration::from_secs(300)));
        assert_eq!(parse_duration("250ms"), Ok(Duration::from_millis(250)));
        assert_eq!(parse_duration("7d"), Ok(Duration::from_secs(604_800)));
        assert_eq!(parse_duration("1h30m"), Ok(Duration::from_secs(5400)));
        assert_eq!(parse_duration("1 h 30 min"), Ok(Duration::from_secs(5400)));
        assert_eq!(parse_duration("1.5h"), Ok(Duration::from_secs(5400)));
        assert_eq!(parse_duration("2w 1d"), Ok(Duration::from_secs(15 * 86_400)));
        for shown in [5, 90, 5400, 90_000, 700_000] {
            assert!(
                parse_duration(&format_duration(shown)).is_ok(),
                "{}",
                format_duration(shown)
            );
        }
        for bad in [
            "",
            "m",
            "1y",
            "1mo",
            "-5s",
            "99999999999999999999",
            "9999999999999999h",
        ] {
            assert!(parse_duration(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn numbers_that_lack_a_unit_are_refused() {
        assert_eq!(parse_size("0"), Ok(0));
        assert_eq!(parse_size("50K"), Ok(50 << 10));
        assert_eq!(parse_size("25165824"), Ok(24 << 20));
        let said = parse_size("50").unwrap_err();
        assert!(said.contains("50 bytes") && said.contains("50G"), "{said}");
        assert_eq!(parse_with_unit("5s", 10, 'm'), Ok(Duration::from_secs(5)));
        assert_eq!(parse_with_unit("60", 10, 'm'), Ok(Duration::from_secs(60)));
        let said = parse_with_unit("5", 10, 'm').unwrap_err();
        assert!(said.contains("5 seconds") && said.contains("5m"), "{said}");
        assert!(parse_timeout("0").is_err() && parse_timeout("250ms").is_err() && parse_timeout("1").is_ok());
    }

    #[test]
    fn sizes_are_shown_with_three_digits() {
        assert_eq!(format_bytes(999), "999 B");
        assert_eq!(format_bytes(1536), "1.5 KiB");
        assert_eq!(format_bytes(10 << 30), "10.0 GiB");
        assert_eq!(format_bytes((1 << 30) - 1), "1.0 GiB");
    }
}

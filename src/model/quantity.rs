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

/// Reads `30`, `30s`, `5m`, `2h`, `7d`, `250ms`; a bare number is seconds.
///
/// # Errors
/// Anything else.
pub fn parse_duration(text: &str) -> Result<Duration, QuantityError> {
    let err = || QuantityError {
        text: text.into(),
        what: "a duration such as 30s, 5m, 2h or 7d",
    };
    let lower = text.trim().to_ascii_lowercase();
    let digits_end = lower.find(|c: char| !c.is_ascii_digit()).unwrap_or(lower.len());
    let (number, unit) = lower.split_at(digits_end);
    let value: u64 = number.parse().map_err(|_| err())?;
    let seconds = |factor: u64| value.checked_mul(factor).map(Duration::from_secs).ok_or_else(err);
    match unit.trim() {
        "ms" => Ok(Duration::from_millis(value)),
        "" | "s" => seconds(1),
        "m" | "min" => seconds(60),
        "h" => seconds(3600),
        "d" => seconds(86_400),
        _ => Err(err()),
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
        for bad in ["", "m", "1y", "-5s", "99999999999999999999"] {
            assert!(parse_duration(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn sizes_are_shown_with_three_digits() {
        assert_eq!(format_bytes(999), "999 B");
        assert_eq!(format_bytes(1536), "1.5 KiB");
        assert_eq!(format_bytes(10 << 30), "10.0 GiB");
        assert_eq!(format_bytes((1 << 30) - 1), "1.0 GiB");
    }
}

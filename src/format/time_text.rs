//! Times in JSON: RFC 3339 in UTC, with as many decimals as the time has.

use serde::{Deserialize, Deserializer, Serializer, de, ser};

use crate::model::Timestamp;

/// As text; `None` outside the years -9999 to 9999.
fn to_text(time: &Timestamp) -> Option<String> {
    Some(
        jiff::Timestamp::from_nanosecond(time.as_nanos())
            .ok()?
            .to_string(),
    )
}

fn from_text(text: &str) -> Option<Timestamp> {
    let nanos = text.parse::<jiff::Timestamp>().ok()?.as_nanosecond();
    Some(Timestamp {
        secs: i64::try_from(nanos.div_euclid(1_000_000_000)).ok()?,
        nanos: nanos.rem_euclid(1_000_000_000) as u32,
    })
}

/// For `#[serde(with)]`.
pub(super) fn serialize<S: Serializer>(time: &Timestamp, s: S) -> Result<S::Ok, S::Error> {
    match to_text(time) {
        Some(text) => s.serialize_str(&text),
        None => Err(ser::Error::custom("a time outside the years -9999 to 9999")),
    }
}

/// For `#[serde(with)]`.
pub(super) fn deserialize<'de, D: Deserializer<'de>>(d: D) -> Result<Timestamp, D::Error> {
    let text = String::deserialize(d)?;
    from_text(&text).ok_or_else(|| de::Error::custom("not a time"))
}

/// The same for a time that may be missing.
pub(super) mod optional {
    use super::*;

    /// For `#[serde(with)]`.
    pub(in super::super) fn serialize<S: Serializer>(
        time: &Option<Timestamp>,
        s: S,
    ) -> Result<S::Ok, S::Error> {
        match time {
            Some(time) => super::serialize(time, s),
            None => s.serialize_none(),
        }
    }

    /// For `#[serde(with)]`.
    pub(in super::super) fn deserialize<'de, D: Deserializer<'de>>(
        d: D,
    ) -> Result<Option<Timestamp>, D::Error> {
        Option::<String>::deserialize(d)?
            .map(|text| from_text(&text).ok_or_else(|| de::Error::custom("not a time")))
            .transpose()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_come_back_to_the_nanosecond() {
        for time in [
            Timestamp { secs: 0, nanos: 0 },
            Timestamp {
                secs: -1,
                nanos: 999_999_999,
            },
            Timestamp {
                secs: 1_795_320_000,
                nanos: 1,
            },
        ] {
            assert_eq!(from_text(&to_text(&time).unwrap()), Some(time));
        }
        let text = to_text(&Timestamp {
            secs: 1_795_320_000,
            nanos: 0,
        })
        .unwrap();
        assert_eq!(text, "2026-11-22T04:00:00Z");
        assert!(
            to_text(&Timestamp {
                secs: i64::MAX,
                nanos: 0
            })
            .is_none()
        );
    }
}

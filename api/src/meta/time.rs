//! Points in time as Kubernetes writes them: RFC 3339 in UTC, with whole seconds (`Time`) or six decimals (`MicroTime`).

use std::fmt;
use std::str::FromStr;

use jiff::{Timestamp, Unit};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

/// A text that is no RFC 3339 time.
#[derive(Debug, thiserror::Error)]
#[error("not an RFC 3339 time: {text:?}")]
pub struct TimeError {
    text: Box<str>,
    source: jiff::Error,
}

/// A point in time of whole seconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Time(Timestamp);

/// A point in time of whole microseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct MicroTime(Timestamp);

fn parse(text: &str) -> Result<Timestamp, TimeError> {
    text.parse().map_err(|source| TimeError {
        text: text.into(),
        source,
    })
}

fn floor(at: Timestamp, unit: Unit) -> Timestamp {
    let round = jiff::TimestampRound::new()
        .smallest(unit)
        .mode(jiff::RoundMode::Floor);
    at.round(round).unwrap_or(at)
}

macro_rules! point_in_time {
    ($name:ident, $unit:expr, $format:literal) => {
        impl $name {
            /// The time now, by the machine's clock.
            pub fn now() -> Self {
                Timestamp::now().into()
            }

            /// The time in jiff's terms, for arithmetic.
            pub fn timestamp(self) -> Timestamp {
                self.0
            }
        }

        impl From<Timestamp> for $name {
            /// Cuts off what this form cannot write.
            fn from(at: Timestamp) -> Self {
                Self(floor(at, $unit))
            }
        }

        impl FromStr for $name {
            type Err = TimeError;

            fn from_str(text: &str) -> Result<Self, TimeError> {
                parse(text).map(Self::from)
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, $format, self.0)
            }
        }

        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                let text = std::borrow::Cow::<str>::deserialize(deserializer)?;
                text.parse().map_err(de::Error::custom)
            }
        }
    };
}

point_in_time!(Time, Unit::Second, "{:.0}");
point_in_time!(MicroTime, Unit::Microsecond, "{:.6}");

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_written_in_utc_with_their_own_precision() {
        let text = "2024-05-06T07:08:09.123456789+02:00";
        assert_eq!(
            text.parse::<Time>().unwrap().to_string(),
            "2024-05-06T05:08:09Z"
        );
        assert_eq!(
            text.parse::<MicroTime>().unwrap().to_string(),
            "2024-05-06T05:08:09.123456Z"
        );
        assert_eq!(
            "2024-05-06T07:08:09Z"
                .parse::<MicroTime>()
                .unwrap()
                .to_string(),
            "2024-05-06T07:08:09.000000Z"
        );
    }

    #[test]
    fn a_text_that_is_no_time_is_named_in_the_error() {
        assert_eq!(
            "soon".parse::<Time>().unwrap_err().to_string(),
            "not an RFC 3339 time: \"soon\""
        );
    }
}

//! Amounts of resources: `250m`, `1.5Gi`, `2e3`.
//! Source: `k8s.io/apimachinery/pkg/api/resource/quantity.go`.

use std::fmt;

use serde::{Deserialize, Deserializer, Serialize};

/// An amount as it was written; [`Quantity::amount`] is what it means. JSON may carry it as a number.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(transparent)]
pub struct Quantity(pub Box<str>);

/// An exact amount, in billionths. Finer ones are rounded away from zero.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Amount {
    nanos: i128,
}

/// A text that is no quantity.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "quantities must match the regular expression '^([+-]?[0-9.]+)([eEinumkKMGTP]*[-+]?[0-9]*)$': {text:?}"
)]
pub struct QuantityError {
    text: Box<str>,
}

const NANOS: i128 = 1_000_000_000;

impl Amount {
    /// Whole units, rounded up: bytes, CPUs, Pods.
    pub fn units(self) -> i64 {
        self.scaled(NANOS)
    }

    /// Thousandths, rounded up: what CPU is scheduled in.
    pub fn millis(self) -> i64 {
        self.scaled(NANOS / 1000)
    }

    fn scaled(self, unit: i128) -> i64 {
        let up = self.nanos.div_euclid(unit) + i128::from(self.nanos.rem_euclid(unit) != 0);
        i64::try_from(up).unwrap_or(if up < 0 { i64::MIN } else { i64::MAX })
    }
}

impl std::ops::Add for Amount {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        Self {
            nanos: self.nanos.saturating_add(other.nanos),
        }
    }
}

impl Quantity {
    /// What the text means.
    ///
    /// # Errors
    /// When it is no quantity.
    pub fn amount(&self) -> Result<Amount, QuantityError> {
        parse(&self.0)
            .map(|nanos| Amount { nanos })
            .ok_or_else(|| QuantityError {
                text: self.0.clone(),
            })
    }
}

/// Billionths; amounts beyond what 128 bits hold are capped, as upstream caps at 63.
fn parse(text: &str) -> Option<i128> {
    let (negative, unsigned) = match text.as_bytes().first()? {
        b'-' => (true, &text[1..]),
        b'+' => (false, &text[1..]),
        _ => (false, text),
    };
    let end = unsigned
        .find(|c: char| !c.is_ascii_digit() && c != '.')
        .unwrap_or(unsigned.len());
    let (number, suffix) = unsigned.split_at(end);
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    if (whole.is_empty() && fraction.is_empty()) || fraction.contains('.') {
        return None;
    }
    let digits = format!("{whole}{fraction}");
    let digits = digits.trim_start_matches('0');
    let (base, exponent) = scale(suffix)?;
    let nanos = if digits.is_empty() {
        0
    } else {
        apply(
            digits.parse().unwrap_or(i128::MAX),
            base,
            exponent - fraction.len() as i32 + 9,
        )
    };
    Some(if negative { -nanos } else { nanos })
}

/// `value * base * 10^exponent`, rounded up.
fn apply(value: i128, base: i128, exponent: i32) -> i128 {
    let value = value.saturating_mul(base);
    let power = 10i128.checked_pow(exponent.unsigned_abs());
    match (exponent >= 0, power) {
        (true, Some(power)) => value.saturating_mul(power),
        (true, None) => i128::MAX,
        (false, Some(power)) => value.div_euclid(power) + i128::from(value % power != 0),
        (false, None) => 1,
    }
}

/// The factor and the power of ten a suffix stands for.
fn scale(suffix: &str) -> Option<(i128, i32)> {
    let binary = |shift: u32| Some((1i128 << shift, 0));
    let decimal = |exponent: i32| Some((1, exponent));
    match suffix {
        "Ki" => binary(10),
        "Mi" => binary(20),
        "Gi" => binary(30),
        "Ti" => binary(40),
        "Pi" => binary(50),
        "Ei" => binary(60),
        "n" => decimal(-9),
        "u" => decimal(-6),
        "m" => decimal(-3),
        "" => decimal(0),
        "k" => decimal(3),
        "M" => decimal(6),
        "G" => decimal(9),
        "T" => decimal(12),
        "P" => decimal(15),
        "E" => decimal(18),
        _ => {
            let exponent: i16 = suffix.strip_prefix(['e', 'E'])?.parse().ok()?;
            decimal(exponent.into())
        }
    }
}

impl From<&str> for Quantity {
    fn from(text: &str) -> Self {
        Self(text.into())
    }
}

impl fmt::Display for Quantity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl<'de> Deserialize<'de> for Quantity {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(untagged)]
        enum Spelling {
            Text(Box<str>),
            Number(serde_json::Number),
        }
        Ok(match Spelling::deserialize(deserializer)? {
            Spelling::Text(text) => Self(text),
            Spelling::Number(number) => Self(number.to_string().into()),
        })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn amount(text: &str) -> Amount {
        Quantity::from(text).amount().unwrap()
    }

    #[test]
    fn quantities_mean_what_their_suffix_says() {
        let cases = [
            ("1", 1000),
            ("250m", 250),
            ("0.1", 100),
            (".5", 500),
            ("5.", 5000),
            ("+1", 1000),
            ("-1", -1000),
            ("1k", 1_000_000),
            ("1Ki", 1_024_000),
            ("1.5Ki", 1_536_000),
            ("2e3", 2_000_000),
            ("2E-3", 2),
            ("1500u", 2),
            ("0", 0),
            ("00.0", 0),
            ("1n", 1),
        ];
        for (text, millis) in cases {
            assert_eq!(amount(text).millis(), millis, "{text}");
        }
        assert_eq!(amount("1.5Gi").units(), 1_610_612_736);
        assert_eq!(amount("100m").units(), 1);
        assert_eq!(amount("8Ei").units(), i64::MAX);
    }

    #[test]
    fn equal_amounts_compare_equal_however_written() {
        assert_eq!(amount("1"), amount("1000m"));
        assert_eq!(amount("1Gi"), amount("1024Mi"));
        assert!(amount("1G") < amount("1Gi"));
        assert!(amount("1e400") > amount("1Ei"));
    }

    #[test]
    fn texts_that_are_no_quantities_are_refused() {
        for text in [
            "", "a", "1x", "1.2.3", "--1", "1 ", " 1", "1ki", "1K", "e3", ".", "-", "1e", "1Kim",
            "1ee",
        ] {
            assert!(Quantity::from(text).amount().is_err(), "{text:?}");
        }
    }

    #[test]
    fn numbers_in_json_are_quantities_too() {
        assert_eq!(serde_json::from_str::<Quantity>("2").unwrap(), "2".into());
        assert_eq!(
            serde_json::from_str::<Quantity>("0.5").unwrap(),
            "0.5".into()
        );
        assert_eq!(
            serde_json::from_str::<Quantity>("\"1Gi\"").unwrap(),
            "1Gi".into()
        );
    }

    proptest! {
        #[test]
        fn parsing_never_panics(text in "[+-]?[0-9.]{0,50}[a-zA-Z]{0,2}[-+]?[0-9]{0,8}") {
            let _ = Quantity::from(&*text).amount().map(|amount| (amount.units(), amount.millis()));
        }
    }
}

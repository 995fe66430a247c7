//! Numbers and percentages of Pods.
//! Source: kubernetes/kubernetes staging/src/k8s.io/apimachinery/pkg/util/intstr/intstr.go.

use api::core::IntOrString;

/// Which way a share of a Pod goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Round {
    Up,
    Down,
}

/// How many of `total` are meant; what is neither number nor percentage is none (the registry lets it not in).
pub(super) fn of(amount: Option<&IntOrString>, total: i32, round: Round) -> i32 {
    match amount {
        None => 0,
        Some(IntOrString::Int(number)) => *number,
        Some(IntOrString::String(text)) => {
            let percent = text.strip_suffix('%').and_then(|text| text.parse().ok());
            let hundredfold = percent.unwrap_or(0_i64).saturating_mul(total.into());
            let whole = match round {
                Round::Up => hundredfold.saturating_add(99).div_euclid(100),
                Round::Down => hundredfold.div_euclid(100),
            };
            i32::try_from(whole).unwrap_or(i32::MAX)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentages_are_rounded_the_way_that_is_asked() {
        for (amount, total, up, down) in [
            ("25%", 4, 1, 1),
            ("25%", 3, 1, 0),
            ("25%", 10, 3, 2),
            ("0%", 10, 0, 0),
            ("100%", 7, 7, 7),
            ("9223372036854775807%", 7, i32::MAX, i32::MAX),
        ] {
            let amount = IntOrString::from(amount);
            assert_eq!(of(Some(&amount), total, Round::Up), up, "{amount} {total}");
            assert_eq!(of(Some(&amount), total, Round::Down), down, "{amount}");
        }
        assert_eq!(of(Some(&IntOrString::Int(3)), 1, Round::Up), 3);
        assert_eq!(of(None, 10, Round::Up), 0);
    }
}

//! Quantities and times.

use api::{
    meta::{MicroTime, Time},
    quantity::Quantity,
};

/// Read and, where there is a way to write them, written and read again.
pub fn run(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else {
        return;
    };
    if let Ok(amount) = Quantity(text.into()).amount() {
        let (units, millis) = (amount.units(), amount.millis());
        // Both are rounded up, and neither leaves the range of its numbers.
        if millis != i64::MIN && millis != i64::MAX {
            let up = millis.div_euclid(1000) + i64::from(millis.rem_euclid(1000) != 0);
            assert_eq!(units, up, "{millis} thousandths");
        }
    }
    if let Ok(time) = text.parse::<Time>() {
        assert_eq!(time.to_string().parse::<Time>().ok(), Some(time), "{time}");
    }
    if let Ok(time) = text.parse::<MicroTime>() {
        assert_eq!(
            time.to_string().parse::<MicroTime>().ok(),
            Some(time),
            "{time}"
        );
    }
}

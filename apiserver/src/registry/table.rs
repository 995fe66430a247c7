//! What `kubectl get` prints: columns, rows, and the words for durations (api.md (c)).

use jiff::Timestamp;
use serde_json::{Value, json};

/// How a kind is printed.
pub struct Table {
    /// The columns, in order.
    pub columns: &'static [Column],
    /// Fills one row, a cell for each column.
    pub cells: fn(&Value, &mut Row),
}

/// One column.
#[derive(Clone, Copy, Debug)]
pub struct Column {
    /// Its heading.
    pub name: &'static str,
    /// The JSON type of its cells: `string`, `integer`, `boolean` or `date`.
    pub cell_type: &'static str,
    /// `name` for the column that names the object, else empty.
    pub format: &'static str,
    /// What it tells.
    pub description: &'static str,
    /// 0 is always shown, 1 with `-o wide` only.
    pub priority: u8,
}

/// The first column of nearly every kind.
pub const NAME: Column = Column {
    format: "name",
    ..Column::text("Name", "Name must be unique within a namespace.")
};
/// The age column.
pub const AGE: Column = Column::text("Age", "How long ago the object was created.");

/// When it was created, for kinds with no columns of their own (T4).
pub const CREATED_AT: Column = Column {
    cell_type: "date",
    ..Column::text("Created At", "When the object was created.")
};

impl Column {
    /// A column of text.
    #[must_use]
    pub const fn text(name: &'static str, description: &'static str) -> Self {
        Self {
            name,
            cell_type: "string",
            format: "",
            description,
            priority: 0,
        }
    }

    /// A column of whole numbers.
    #[must_use]
    pub const fn integer(name: &'static str, description: &'static str) -> Self {
        Self {
            cell_type: "integer",
            ..Self::text(name, description)
        }
    }

    /// A column of text shown with `-o wide` only.
    #[must_use]
    pub const fn wide(name: &'static str, description: &'static str) -> Self {
        Self {
            priority: 1,
            ..Self::text(name, description)
        }
    }

    /// As a `columnDefinitions` entry.
    #[must_use]
    pub fn to_json(&self) -> Value {
        json!({
            "name": self.name, "type": self.cell_type, "format": self.format,
            "description": self.description, "priority": self.priority,
        })
    }
}

/// A row being filled.
#[derive(Debug)]
pub struct Row {
    now: Timestamp,
    /// The cells so far.
    pub cells: Vec<Value>,
    /// Conditions of the row, for example that a Pod has completed.
    pub conditions: Vec<Value>,
}

impl Row {
    /// An empty row; ages are counted up to `now`.
    #[must_use]
    pub fn new(now: Timestamp) -> Self {
        Self {
            now,
            cells: Vec::new(),
            conditions: Vec::new(),
        }
    }

    /// The object's name.
    pub fn name(&mut self, object: &Value) {
        self.text(object["metadata"]["name"].as_str().unwrap_or_default());
    }

    /// A text.
    pub fn text(&mut self, text: &str) {
        self.cells.push(text.into());
    }

    /// A text, or `otherwise` when it is empty.
    pub fn text_or(&mut self, text: &str, otherwise: &str) {
        self.text(if text.is_empty() { otherwise } else { text });
    }

    /// A text, or `<none>` when it is empty.
    pub fn or_none(&mut self, text: &str) {
        self.text_or(text, "<none>");
    }

    /// A number.
    pub fn number(&mut self, number: impl Into<Value>) {
        self.cells.push(number.into());
    }

    /// How long ago the object was created.
    pub fn age(&mut self, object: &Value) {
        let created = object["metadata"]["creationTimestamp"].as_str();
        self.since(created.unwrap_or_default());
    }

    /// When the object was created.
    pub fn created(&mut self, object: &Value) {
        self.text(
            object["metadata"]["creationTimestamp"]
                .as_str()
                .unwrap_or_default(),
        );
    }

    /// How long ago that time was.
    pub fn since(&mut self, time: &str) {
        let text = self.elapsed(time);
        self.cells.push(text.into());
    }

    /// How long ago that time was, in words; `<unknown>` when it is no time.
    #[must_use]
    pub fn elapsed(&self, time: &str) -> String {
        time.parse::<Timestamp>().map_or_else(
            |_| "<unknown>".into(),
            |time| human_duration(self.now.as_second() - time.as_second()),
        )
    }
}

/// A duration as kubectl prints ages: shorter the longer it is.
#[must_use]
pub fn human_duration(secs: i64) -> String {
    const MINUTE: i64 = 60;
    const HOUR: i64 = 60 * MINUTE;
    const DAY: i64 = 24 * HOUR;
    const YEAR: i64 = 365 * DAY;
    let two = |large: i64, l: &str, small: i64, s: &str| {
        if small == 0 {
            format!("{large}{l}")
        } else {
            format!("{large}{l}{small}{s}")
        }
    };
    match secs {
        i64::MIN..-1 => "<invalid>".into(),
        -1..0 => "0s".into(),
        0..120 => format!("{secs}s"),
        120..600 => two(secs / MINUTE, "m", secs % MINUTE, "s"),
        600..10_800 => format!("{}m", secs / MINUTE),
        10_800..28_800 => two(secs / HOUR, "h", secs % HOUR / MINUTE, "m"),
        28_800..172_800 => format!("{}h", secs / HOUR),
        172_800..691_200 => two(secs / DAY, "d", secs % DAY / HOUR, "h"),
        _ if secs < 2 * YEAR => format!("{}d", secs / DAY),
        _ if secs < 8 * YEAR => two(secs / YEAR, "y", secs % YEAR / DAY, "d"),
        _ => format!("{}y", secs / YEAR),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_read_as_kubectl_prints_them() {
        let cases = [
            (-5, "<invalid>"),
            (-1, "0s"),
            (0, "0s"),
            (119, "119s"),
            (120, "2m"),
            (135, "2m15s"),
            (600, "10m"),
            (10_799, "179m"),
            (10_800, "3h"),
            (11_100, "3h5m"),
            (28_800, "8h"),
            (172_799, "47h"),
            (172_800, "2d"),
            (176_400, "2d1h"),
            (691_200, "8d"),
            (86_400 * 729, "729d"),
            (86_400 * 730, "2y"),
            (86_400 * 740, "2y10d"),
            (86_400 * 365 * 8, "8y"),
        ];
        for (secs, wanted) in cases {
            assert_eq!(human_duration(secs), wanted, "{secs} seconds");
        }
    }
}

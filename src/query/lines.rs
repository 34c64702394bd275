//! Rows as text: JSON lines and CSV.

use crate::archive::catalogue::columns::{Micros, Table, Value};
use std::fmt::Write;

/// A row as a JSON object, without a line's end. Missing values are `null`, times RFC 3339.
pub fn json<T: Table>(row: &T) -> String {
    let mut values = Vec::new();
    row.values(&mut values);
    let mut line = String::from("{");
    for (column, value) in T::COLUMNS.iter().zip(values) {
        if line.len() > 1 {
            line.push(',');
        }
        // Writing to a string cannot fail.
        let _ = write!(line, "\"{}\":", column.name);
        match value {
            Value::Text(text) => line.push_str(&serde_json::Value::from(text).to_string()),
            Value::Time(time) => {
                let _ = write!(line, "\"{}\"", Micros(time));
            }
            // NaN and infinity, which JSON lacks, come from no field.
            Value::Double(n) => line.push_str(&serde_json::Value::from(n).to_string()),
            other => line.push_str(&plain(other).unwrap_or_else(|| "null".to_owned())),
        }
    }
    line.push('}');
    line
}

/// The header of a CSV file, without a line's end (RFC 4180).
pub fn csv_header<T: Table>() -> String {
    T::COLUMNS.iter().map(|c| c.name).collect::<Vec<_>>().join(",")
}

/// A row of a CSV file, without a line's end. Missing values are empty.
pub fn csv<T: Table>(row: &T) -> String {
    let mut values = Vec::new();
    row.values(&mut values);
    let cells = values.into_iter().map(|value| match value {
        Value::Text(text) if text.contains(['"', ',', '\n', '\r']) => format!("\"{}\"", text.replace('"', "\"\"")),
        Value::Text(text) => text.to_owned(),
        Value::Time(time) => Micros(time).to_string(),
        other => plain(other).unwrap_or_default(),
    });
    cells.collect::<Vec<_>>().join(",")
}

fn plain(value: Value<'_>) -> Option<String> {
    match value {
        Value::Int(n) => Some(n.to_string()),
        Value::Double(n) => Some(n.to_string()),
        Value::Bool(b) => Some(b.to_string()),
        Value::Null | Value::Text(_) | Value::Time(_) => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::archive::catalogue::columns::table;

    table! {
        /// A row.
        struct Sample {
            /// Words.
            text: String,
            /// Perhaps a number.
            number: Option<f64>,
            /// When.
            at: Micros,
            /// Whether.
            yes: bool,
        }
    }

    #[test]
    fn rows_become_json_and_csv() {
        let row = Sample { text: "a,\"b\"".into(), number: None, at: Micros(1), yes: true };
        assert_eq!(json(&row), r#"{"text":"a,\"b\"","number":null,"at":"1970-01-01T00:00:00.000001Z","yes":true}"#);
        assert_eq!(csv_header::<Sample>(), "text,number,at,yes");
        assert_eq!(csv(&row), r#""a,""b""",,1970-01-01T00:00:00.000001Z,true"#);
        let row = Sample { number: Some(0.5), ..Sample::default() };
        assert_eq!(csv(&row), ",0.5,1970-01-01T00:00:00.000000Z,false");
    }
}

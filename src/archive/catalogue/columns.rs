//! Tables for other programs: a row type's columns by name, type and meaning, and rows as values.
//!
//! One declaration by `table!` makes the struct, its Parquet schema, its CSV header and the keys of its JSON.

use crate::time::{CivilDate, Timestamp};
use std::fmt;

/// A column as other programs see it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Column {
    /// Its name: lower case, words joined by underscores.
    pub name: &'static str,
    /// What its values are.
    pub kind: Kind,
    /// Whether a value may be missing.
    pub optional: bool,
    /// What a value says.
    pub meaning: &'static str,
}

/// What a column's values are.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    /// UTF-8.
    Text,
    /// 64 bits, signed: the integers that every reader of Parquet has.
    Int,
    /// A double.
    Double,
    /// True or false.
    Bool,
    /// Microseconds since 1970-01-01 UTC: the finest time that BigQuery and Spark have.
    Time,
}

/// One value of a row.
#[derive(Clone, Copy, PartialEq, Debug)]
pub enum Value<'a> {
    /// Missing.
    Null,
    /// Of [`Kind::Text`].
    Text(&'a str),
    /// Of [`Kind::Int`].
    Int(i64),
    /// Of [`Kind::Double`].
    Double(f64),
    /// Of [`Kind::Bool`].
    Bool(bool),
    /// Of [`Kind::Time`].
    Time(i64),
}

/// A row type.
pub trait Table: Default {
    /// Its columns, in order.
    const COLUMNS: &'static [Column];

    /// All values of the row, in the order of the columns; what was in `out` before is gone.
    fn values<'a>(&'a self, out: &mut Vec<Value<'a>>);

    /// Sets one column's field. A value of another kind leaves it as it is.
    fn set(&mut self, column: usize, value: Value<'_>);

    /// The place of a column that must exist.
    ///
    /// # Panics
    /// Panics where there is no column of that name.
    fn column(name: &str) -> usize {
        Self::COLUMNS.iter().position(|c| c.name == name).unwrap_or_else(|| panic!("no column {name}"))
    }
}

/// A time of a column: microseconds since 1970-01-01 UTC.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Default)]
pub struct Micros(pub i64);

impl From<Timestamp> for Micros {
    fn from(ts: Timestamp) -> Self {
        // A u64 of nanoseconds has room in an i64 of microseconds.
        Self((ts.as_nanos() / 1_000) as i64)
    }
}

impl From<Micros> for Timestamp {
    fn from(time: Micros) -> Self {
        Self::from_nanos(u64::try_from(time.0).unwrap_or(0).saturating_mul(1_000))
    }
}

impl fmt::Display for Micros {
    /// Writes RFC 3339 in UTC, with six digits of the second.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ts = Timestamp::from(*self);
        let CivilDate { year, month, day } = CivilDate::from_utc(ts);
        let (secs, micros) = (ts.secs() % 86_400, ts.subsec_nanos() / 1_000);
        let (hour, minute, second) = (secs / 3_600, secs / 60 % 60, secs % 60);
        write!(f, "{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{micros:06}Z")
    }
}

/// What a field of a row type can be.
pub trait Field {
    /// Its column's kind.
    const KIND: Kind;
    /// Whether it may be missing.
    const OPTIONAL: bool = false;

    /// Its value.
    fn value(&self) -> Value<'_>;

    /// Takes a value of its kind, and no other.
    fn set(&mut self, value: Value<'_>);
}

impl Field for String {
    const KIND: Kind = Kind::Text;

    fn value(&self) -> Value<'_> {
        Value::Text(self)
    }

    fn set(&mut self, value: Value<'_>) {
        if let Value::Text(text) = value {
            text.clone_into(self);
        }
    }
}

/// Fields that are one value of a variant.
macro_rules! field {
    ($($type:ty, $kind:ident, |$field:ident| $to:expr, |$value:ident| $from:expr;)*) => {$(
        impl Field for $type {
            const KIND: Kind = Kind::$kind;

            fn value(&self) -> Value<'_> {
                let $field = *self;
                Value::$kind($to)
            }

            fn set(&mut self, value: Value<'_>) {
                if let Value::$kind($value) = value {
                    *self = $from;
                }
            }
        }
    )*};
}

field! {
    i64, Int, |n| n, |n| n;
    u16, Int, |n| n.into(), |n| u16::try_from(n).unwrap_or(0);
    u32, Int, |n| n.into(), |n| u32::try_from(n).unwrap_or(0);
    f64, Double, |n| n, |n| n;
    bool, Bool, |b| b, |b| b;
    Micros, Time, |t| t.0, |t| Micros(t);
}

impl<T: Field + Default> Field for Option<T> {
    const KIND: Kind = T::KIND;
    const OPTIONAL: bool = true;

    fn value(&self) -> Value<'_> {
        self.as_ref().map_or(Value::Null, Field::value)
    }

    fn set(&mut self, value: Value<'_>) {
        if value == Value::Null {
            *self = None;
        } else {
            self.get_or_insert_default().set(value);
        }
    }
}

/// Declares a row type: a field is a column, its doc comment what the column means.
macro_rules! table {
    ($(#[doc = $doc:literal])* $vis:vis struct $Row:ident { $($(#[doc = $meaning:literal])+ $name:ident: $type:ty,)* }) => {
        $(#[doc = $doc])*
        #[derive(Clone, PartialEq, Debug, Default)]
        $vis struct $Row {
            $($(#[doc = $meaning])+ $vis $name: $type,)*
        }

        impl $crate::archive::catalogue::columns::Table for $Row {
            const COLUMNS: &'static [$crate::archive::catalogue::columns::Column] = &[$(
                $crate::archive::catalogue::columns::Column {
                    name: stringify!($name),
                    kind: <$type as $crate::archive::catalogue::columns::Field>::KIND,
                    optional: <$type as $crate::archive::catalogue::columns::Field>::OPTIONAL,
                    meaning: concat!($($meaning),+).trim_ascii(),
                },
            )*];

            fn values<'a>(&'a self, out: &mut Vec<$crate::archive::catalogue::columns::Value<'a>>) {
                out.clear();
                out.extend([$($crate::archive::catalogue::columns::Field::value(&self.$name),)*]);
            }

            fn set(&mut self, column: usize, value: $crate::archive::catalogue::columns::Value<'_>) {
                let mut place = 0..;
                $(
                    if place.next() == Some(column) {
                        return $crate::archive::catalogue::columns::Field::set(&mut self.$name, value);
                    }
                )*
            }
        }
    };
}

pub(crate) use table;

#[cfg(test)]
mod tests {
    use super::*;

    table! {
        /// A row of every kind.
        struct Sample {
            /// Some words.
            text: String,
            /// A number.
            number: u16,
            /// Perhaps a fraction.
            fraction: Option<f64>,
            /// When.
            at: Micros,
        }
    }

    #[test]
    fn a_row_is_its_columns() {
        let described: Vec<_> = Sample::COLUMNS.iter().map(|c| (c.name, c.kind, c.optional, c.meaning)).collect();
        assert_eq!(
            described,
            [
                ("text", Kind::Text, false, "Some words."),
                ("number", Kind::Int, false, "A number."),
                ("fraction", Kind::Double, true, "Perhaps a fraction."),
                ("at", Kind::Time, false, "When."),
            ]
        );
        let row = Sample { text: "x".into(), number: 7, fraction: Some(0.5), at: Micros(9) };
        let mut values = Vec::new();
        row.values(&mut values);
        let mut copy = Sample::default();
        for (column, value) in values.iter().enumerate() {
            copy.set(column, *value);
        }
        assert_eq!(copy, row);
        copy.set(Sample::column("fraction"), Value::Null);
        copy.set(Sample::column("number"), Value::Text("not a number"));
        assert_eq!((copy.fraction, copy.number), (None, 7));
    }

    #[test]
    fn times_are_written_as_rfc_3339() {
        assert_eq!(Micros(1_795_218_624_659_974).to_string(), "2026-11-20T23:50:24.659974Z");
        assert_eq!(Timestamp::from(Micros::from(Timestamp::from_nanos(1_999))), Timestamp::from_nanos(1_000));
    }
}

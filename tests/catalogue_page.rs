//! Holds docs/CATALOGUE.md to the columns that the program writes.

use flowarc::archive::catalogue::Row;
use flowarc::archive::catalogue::columns::{Kind, Table};
use flowarc::query::packets::PacketRow;

#[test]
fn the_page_describes_every_column() {
    let page = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/docs/CATALOGUE.md")).unwrap();
    for (marker, table) in [("columns", described::<Row>()), ("packets", described::<PacketRow>())] {
        let (begin, end) = (format!("<!-- {marker} -->"), format!("<!-- end of {marker} -->"));
        let section = page.split(&begin).nth(1).and_then(|rest| rest.split(&end).next()).expect("both markers");
        assert!(section == table, "docs/CATALOGUE.md must have this between its markers {marker}:\n{table}");
    }
}

fn described<T: Table>() -> String {
    let mut table = "\n| column | type | meaning |\n|---|---|---|\n".to_owned();
    for column in T::COLUMNS {
        let kind = match column.kind {
            Kind::Text => "string",
            Kind::Int => "integer",
            Kind::Double => "double",
            Kind::Bool => "boolean",
            Kind::Time => "timestamp",
        };
        let optional = if column.optional { ", may be missing" } else { "" };
        table += &format!("| `{}` | {kind}{optional} | {} |\n", column.name, column.meaning);
    }
    table
}

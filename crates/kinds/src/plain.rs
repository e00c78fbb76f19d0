//! A kind without behaviour of its own: its schema says all there is. Every built-in kind that has no folder yet, and the
//! review kinds, are served this way; so is the shape of what [`crate::strategy`] defaults to.

use std::time::Duration;

use jiff::Timestamp;
use meta::{FieldError, Object, schema::Schema};
use serde_json::Value;

use crate::{
    scheme::{KindInfo, ServedKind, TableColumn},
    strategy::{Column, DeletionGrace, NameRule, WriteContext},
};

/// Schema-driven kind.
pub struct PlainKind {
    info: KindInfo,
    schema: Schema,
    table: Table,
}

/// What `kubectl get` shows of a kind.
#[derive(Debug, Clone, Copy)]
pub struct Table {
    /// Columns.
    pub columns: &'static [Column],
    /// Cells of one row, one per column.
    pub row: fn(&Object) -> Vec<Value>,
}

/// Name and age.
const USUAL: Table = Table {
    columns: &[Column::NAME, Column::AGE],
    row: |object| vec![object.name().into(), object.text(&["metadata", "creationTimestamp"]).unwrap_or_default().into()],
};

impl PlainKind {
    /// From names and shape.
    pub fn new(info: KindInfo, schema: Schema) -> Self {
        Self { info, schema, table: USUAL }
    }
    /// The same with other columns.
    #[must_use]
    pub fn with_table(self, table: Table) -> Self {
        Self { table, ..self }
    }
}

impl ServedKind for PlainKind {
    fn info(&self) -> &KindInfo {
        &self.info
    }
    fn schema(&self) -> &Schema {
        &self.schema
    }
    fn default(&self, object: &mut Object) -> Result<(), String> {
        meta::defaulting::apply_defaults(&self.schema, object);
        Ok(())
    }
    fn finish_create(&self, _context: &WriteContext, _new: &mut Object) -> Result<Vec<FieldError>, String> {
        Ok(Vec::new())
    }
    fn finish_update(&self, _context: &WriteContext, _new: &mut Object, _old: &Object) -> Result<Vec<FieldError>, String> {
        Ok(Vec::new())
    }
    fn finish_status_update(&self, _context: &WriteContext, _new: &mut Object, _old: &Object) -> Result<Vec<FieldError>, String> {
        Ok(Vec::new())
    }
    fn warnings(&self, _new: &Object, _old: Option<&Object>) -> Vec<String> {
        Vec::new()
    }
    fn name_rule(&self) -> NameRule {
        match &*self.info.kind.group {
            "rbac.authorization.k8s.io" | "certificates.k8s.io" => NameRule::PathSegment,
            _ => NameRule::Dns1123Subdomain,
        }
    }
    fn tracks_generation(&self) -> bool {
        self.schema.root().field("spec").is_some()
    }
    fn allows_create_on_update(&self) -> bool {
        false
    }
    fn allows_unconditional_update(&self) -> bool {
        true
    }
    fn selectable_fields(&self, _object: &Object) -> Vec<(String, String)> {
        Vec::new()
    }
    fn is_selectable(&self, _field: &str) -> bool {
        false
    }
    fn columns(&self) -> Vec<TableColumn> {
        self.table.columns.iter().map(TableColumn::from).collect()
    }
    fn row(&self, object: &Object, _now: Timestamp) -> Vec<Value> {
        (self.table.row)(object)
    }
    fn deletion_grace(&self, _object: &Object, _requested: Option<i64>) -> DeletionGrace {
        DeletionGrace::Immediate
    }
    fn orphans_by_default(&self) -> bool {
        false
    }
    fn lifetime(&self) -> Option<Duration> {
        None
    }
}

/// The age column's cell: how long ago, as kubectl writes it (`5d3h`), `<unknown>` without a timestamp.
///
/// Source: Kubernetes `apimachinery/pkg/util/duration`, `HumanDuration`.
pub fn age(since: Option<Timestamp>, now: Timestamp) -> String {
    since.map_or_else(|| "<unknown>".to_owned(), |since| human_duration(now.as_second() - since.as_second()))
}

/// Seconds as kubectl writes a duration.
pub fn human_duration(seconds: i64) -> String {
    const MINUTE: i64 = 60;
    const HOUR: i64 = 60 * MINUTE;
    const DAY: i64 = 24 * HOUR;
    const YEAR: i64 = 365 * DAY;
    let pair = |large: i64, large_unit: &str, small: i64, small_unit: &str| {
        if small == 0 { format!("{large}{large_unit}") } else { format!("{large}{large_unit}{small}{small_unit}") }
    };
    match seconds {
        ..-1 => "<invalid>".to_owned(),
        -1..0 => "0s".to_owned(),
        0..120 => format!("{seconds}s"),
        120..600 => pair(seconds / MINUTE, "m", seconds % MINUTE, "s"),
        600..10_800 => format!("{}m", seconds / MINUTE),
        10_800..28_800 => pair(seconds / HOUR, "h", seconds % HOUR / MINUTE, "m"),
        28_800..172_800 => format!("{}h", seconds / HOUR),
        172_800..691_200 => pair(seconds / DAY, "d", seconds % DAY / HOUR, "h"),
        691_200..63_072_000 => format!("{}d", seconds / DAY),
        63_072_000..252_288_000 => pair(seconds / YEAR, "y", seconds % YEAR / DAY, "d"),
        _ => format!("{}y", seconds / YEAR),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_read_as_kubectl_prints_them() {
        for (seconds, text) in
            [(0, "0s"), (119, "119s"), (125, "2m5s"), (600, "10m"), (10_800, "3h"), (90_000, "25h"), (180_000, "2d2h"), (864_000, "10d")]
        {
            assert_eq!(human_duration(seconds), text);
        }
    }
}

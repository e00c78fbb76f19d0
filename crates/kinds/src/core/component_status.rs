//! ComponentStatus: whether a part of the control plane is well. Nothing keeps these: the API server says what it finds when it is asked.
//!
//! Source: Kubernetes 1.36, `pkg/printers/internalversion/printers.go`, `printComponentStatus`.

use meta::Object;
use serde_json::Value;

use crate::{plain::Table, strategy::Column};

/// What `kubectl get componentstatuses` shows.
pub const TABLE: Table = Table {
    columns: &[
        Column::NAME,
        Column::text("Status", "Whether the component is well."),
        Column::text("Message", "What the component said."),
        Column::text("Error", "Why the component could not be asked."),
    ],
    row,
};

fn row(object: &Object) -> Vec<Value> {
    let conditions = object.get(&["conditions"]).and_then(Value::as_array);
    let healthy = conditions.into_iter().flatten().find(|condition| condition["type"] == "Healthy");
    let text = |field: &str| healthy.and_then(|condition| condition.get(field)?.as_str()).unwrap_or_default();
    let word = match text("status") {
        "True" => "Healthy",
        "False" => "Unhealthy",
        _ => "Unknown",
    };
    vec![object.name().into(), word.into(), text("message").into(), text("error").into()]
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_row_says_how_it_is() {
        let row = |condition: Value| row(&Object::from_value(json!({"metadata": {"name": "etcd-0"}, "conditions": [condition]})).unwrap());
        assert_eq!(row(json!({"type": "Healthy", "status": "True", "message": "ok"})), ["etcd-0", "Healthy", "ok", ""]);
        assert_eq!(row(json!({"type": "Healthy", "status": "False", "error": "gone"})), ["etcd-0", "Unhealthy", "", "gone"]);
        assert_eq!(row(json!({"type": "Other", "status": "True"}))[1], "Unknown");
    }
}

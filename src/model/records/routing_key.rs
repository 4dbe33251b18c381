//! An equality that a record must satisfy for a condition to hold.
//!
//! `owner = @request.auth.id && public = false` can hold only for records whose `owner` is the
//! caller. With many such conditions and one record, a lookup by value finds the few that need to
//! be evaluated.

use crate::model::collections::{Collection, Field, FieldKind};
use crate::model::events::{RecordState, SqlValue};
use crate::model::filter::{Comparison, Expr, Literal, Op, Operand};
use crate::model::rules::Identity;

/// A field and the value that it must have.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct RoutingKey {
    /// The id of the field, or `id` for the record id.
    pub field: String,
    pub value: String,
}

impl RoutingKey {
    /// Finds an equality that the condition requires of a field with a single string, which is
    /// compared as it is stored.
    pub fn find(expr: &Expr, collection: &Collection, identity: &Identity) -> Option<RoutingKey> {
        match expr {
            Expr::And(list) => list
                .iter()
                .find_map(|it| RoutingKey::find(it, collection, identity)),
            Expr::Compare(Comparison {
                left,
                op: Op::Equal,
                any: false,
                right,
            }) => {
                let key = |field, value| {
                    let field = field_of(field, collection)?;
                    let value = value_of(value, identity)?;
                    Some(RoutingKey { field, value })
                };
                key(left, right).or_else(|| key(right, left))
            }
            _ => None,
        }
    }

    /// The string that a record has in this field.
    pub fn value_in<'a>(state: &'a RecordState, field: &str) -> Option<&'a str> {
        let at = match field {
            "id" => 0,
            field => {
                let mut fields = state.collection.fields.iter();
                RecordState::SYSTEM.len() + fields.position(|it| it.id == field)?
            }
        };
        match state.values.get(at) {
            Some(SqlValue::Text(text)) => Some(text),
            _ => None,
        }
    }
}

fn field_of(operand: &Operand, collection: &Collection) -> Option<String> {
    let Operand::Path(path) = operand else {
        return None;
    };
    match path.as_slice() {
        [name] if name == "id" => Some(name.clone()),
        [name] => {
            let field = collection.field(name).filter(|field| is_text(field))?;
            Some(field.id.clone())
        }
        _ => None,
    }
}

fn is_text(field: &Field) -> bool {
    match field.kind {
        FieldKind::Text(_) | FieldKind::Select { .. } | FieldKind::Relation(_) => {
            !field.is_multiple()
        }
        FieldKind::Email(_)
        | FieldKind::Url(_)
        | FieldKind::Editor { .. }
        | FieldKind::Number { .. }
        | FieldKind::Bool
        | FieldKind::Date(_)
        | FieldKind::Datetime(_)
        | FieldKind::Json { .. }
        | FieldKind::File(_)
        | FieldKind::Autodate { .. }
        | FieldKind::GeoPoint
        | FieldKind::Password { .. } => false,
    }
}

/// A string that is not empty, since an empty one means unset.
fn value_of(operand: &Operand, identity: &Identity) -> Option<String> {
    let value = match (operand, identity) {
        (Operand::Literal(Literal::Text(text)), _) => text.clone(),
        (Operand::Path(path), Identity::User(user)) => match path.as_slice() {
            [request, auth, id] if request == "@request" && auth == "auth" && id == "id" => {
                user.id.clone()
            }
            _ => return None,
        },
        _ => return None,
    };
    Some(value).filter(|value| !value.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::collections::test_collection;
    use crate::model::filter;
    use crate::model::rules::User;
    use serde_json::{Map, json};
    use std::sync::Arc;

    #[test]
    fn only_what_must_hold_for_one_text_is_found() {
        let collection = test_collection(
            "c",
            "c",
            json!([
                {"id": "f1", "name": "owner", "type": "relation", "collectionId": "u"},
                {"id": "f2", "name": "room", "type": "text"},
                {"id": "f3", "name": "tags", "type": "select", "values": ["a"], "maxSelect": 3},
                {"id": "f4", "name": "n", "type": "number"},
                {"id": "f5", "name": "at", "type": "datetime"},
                {"id": "f6", "name": "more", "type": "json"},
            ]),
        );
        let user = Identity::User(Arc::new(User {
            id: "u1".to_owned(),
            collection_id: "u".to_owned(),
            collection_name: "u".to_owned(),
            record: Map::new(),
            field_names: Arc::default(),
        }));
        let found = |text: &str, identity: &Identity| {
            let key = RoutingKey::find(&filter::parse(text).unwrap(), &collection, identity)?;
            Some(format!("{}={}", key.field, key.value))
        };
        for (text, expected) in [
            ("owner = @request.auth.id", Some("f1=u1")),
            ("@request.auth.id = owner && n > 1", Some("f1=u1")),
            ("n > 1 && (room = 'a' && n < 5)", Some("f2=a")),
            ("id = 'x'", Some("id=x")),
            ("owner = @request.auth.id || n = 1", None),
            ("NOT (room = 'a')", None),
            ("room != 'a'", None),
            ("room ~ 'a'", None),
            ("room ?= 'a'", None),
            ("room = ''", None),
            ("room = 1", None),
            ("tags = 'a'", None),
            ("n = '1'", None),
            ("at = '2026-01-01'", None),
            ("more = 'a'", None),
            ("owner.name = 'a'", None),
            ("owner = @request.auth.name", None),
            ("'a' = 'b'", None),
        ] {
            assert_eq!(found(text, &user).as_deref(), expected, "{text}");
        }
        assert_eq!(
            found("owner = @request.auth.id", &Identity::Anonymous),
            None
        );
    }
}

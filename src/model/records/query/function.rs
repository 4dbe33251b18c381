//! The functions of conditions: `geoDistance` and `strftime`.

use rusqlite::Connection;
use rusqlite::functions::FunctionFlags;
use rusqlite::types::{Value as Stored, ValueRef};

use super::builder::{PathRoot, Query};
use super::coercion::ComparisonType;
use super::operand::{OperandValue, ResolvedOperand};
use crate::base::error::{Error, Result};
use crate::model::filter::{Function, Literal, Operand};

const GEO_DISTANCE: &str = "vski_geo_distance";
/// The mean radius of the Earth, in kilometres, as PocketBase takes it.
const EARTH_RADIUS: f64 = 6371.0;

/// Registers the functions that SQLite does not have.
pub fn register(connection: &Connection) -> Result<()> {
    let flags = FunctionFlags::SQLITE_UTF8
        | FunctionFlags::SQLITE_DETERMINISTIC
        | FunctionFlags::SQLITE_INNOCUOUS;
    connection.create_scalar_function(GEO_DISTANCE, 4, flags, |context| {
        let number = |at| match context.get_raw(at) {
            #[expect(clippy::cast_precision_loss, reason = "degrees are small")]
            ValueRef::Integer(number) => Some(number as f64),
            ValueRef::Real(number) => Some(number),
            ValueRef::Null | ValueRef::Text(_) | ValueRef::Blob(_) => None,
        };
        let point = |lon, lat| number(lon).zip(number(lat));
        Ok(point(0, 1).zip(point(2, 3)).map(|(a, b)| distance(a, b)))
    })?;
    Ok(())
}

/// The distance of two points, given as longitude and latitude, along a great circle.
fn distance((lon_a, lat_a): (f64, f64), (lon_b, lat_b): (f64, f64)) -> f64 {
    let (lat_a, lat_b) = (lat_a.to_radians(), lat_b.to_radians());
    let lon = lon_b.to_radians() - lon_a.to_radians();
    let cosine = lat_a.cos() * lat_b.cos() * lon.cos() + lat_a.sin() * lat_b.sin();
    EARTH_RADIUS * cosine.clamp(-1.0, 1.0).acos()
}

impl Query<'_> {
    /// The value of a function. A path to several values takes the rows of the condition in turn,
    /// or has rows of its own if the comparison asks for all values.
    pub(super) fn call(
        &mut self,
        function: Function,
        arguments: &[Operand],
        root: PathRoot<'_>,
    ) -> Result<ResolvedOperand> {
        let refuse = |text: &str| {
            Err(Error::invalid(format!(
                "An argument of {} {text}.",
                function.name()
            )))
        };
        let (mut parts, mut guards, mut from_request) = (Vec::new(), Vec::new(), false);
        let mut rows: Vec<String> = Vec::new();
        for (at, argument) in arguments.iter().enumerate() {
            let is_text = matches!(argument, Operand::Literal(Literal::Text(_)));
            match (function, at) {
                (Function::Strftime, 0) if !is_text => {
                    return refuse("is not a string: the first is a format");
                }
                (Function::GeoDistance, _) if is_text => return refuse("is a string"),
                _ => {}
            }
            let argument = self.operand(argument, root)?;
            if argument.is_list {
                return refuse("has several values; name each of them, as in tags:each");
            }
            from_request |= argument.from_request;
            guards.extend(argument.guard);
            parts.push(match argument.value {
                OperandValue::Constant(value) => self.bind(value),
                OperandValue::One { sql } => sql,
                OperandValue::Many { from, sql } => {
                    rows.push(from);
                    sql
                }
                OperandValue::Constants(_) => {
                    return refuse("has several values, and they are no rows");
                }
            });
        }
        let (name, kind, affinity) = match function {
            Function::GeoDistance => (GEO_DISTANCE, ComparisonType::Number, "REAL"),
            Function::Strftime => ("strftime", ComparisonType::Text, "TEXT"),
        };
        // The cast makes SQLite compare it as a column of this type.
        let sql = format!("CAST({name}({}) AS {affinity})", parts.join(", "));
        Ok(ResolvedOperand {
            value: match rows.is_empty() {
                true => OperandValue::One { sql },
                false => OperandValue::Many {
                    from: rows.join(", "),
                    sql,
                },
            },
            kind: Some(kind),
            from_request,
            guard: guards
                .into_iter()
                .reduce(|one, other| format!("{one} AND {other}")),
            ..ResolvedOperand::constant(Stored::Null)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn distances_are_those_of_the_globe() {
        let near = |a: f64, b: f64| assert!((a - b).abs() < 0.5, "{a} {b}");
        near(distance((23.32, 42.69), (23.32, 42.69)), 0.0);
        // Sofia and London.
        near(distance((23.3219, 42.6977), (-0.1276, 51.5072)), 2014.5);
        near(distance((0.0, 0.0), (180.0, 0.0)), 20015.0);
    }
}

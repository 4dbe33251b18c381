//! Generates random literals.

use super::compare::OperandType;
use super::world;
use super::world::Number;
use crate::model::filter::Literal;
use crate::tests::rng::Rng;

/// A literal for a comparison with this type, now and then one that does not fit.
pub fn random_literal(rng: &mut Rng, class: OperandType) -> Literal {
    let is_odd = rng.one_in(40);
    match class {
        OperandType::Number if !is_odd => match rng.below(4) {
            0 => Literal::Text(rng.word(&["5", "-0.5", "1e3", "0", " 2 ", "1E3", "-0"])),
            _ => number_literal(*rng.pick(&world::NUMBERS)),
        },
        OperandType::Number => {
            Literal::Text(rng.word(&["05", "+5", ".5", "x", "5 5", "0x10", "Infinity"]))
        }
        OperandType::Bool if !is_odd => match rng.below(4) {
            0 => Literal::Text(rng.word(&["true", "false"])),
            1 => number_literal(*rng.pick(&world::NUMBERS)),
            _ => Literal::Bool(rng.one_in(2)),
        },
        OperandType::Date | OperandType::Datetime => Literal::Text(match rng.below(3) {
            0 => rng.word(&world::DAYS),
            1 => rng.word(&world::MOMENTS),
            _ => rng.word(&[
                "2020-01-01 12:30",
                "2020-01-01T14:30:00+02:00",
                "1999",
                "2020-02-30",
                "a",
                "2020-01-01 00:00:00.000Z",
                "2015-06-15T08:00:00.1239Z",
                "2020-01-01t00:00z",
                "2020-01-01 00:00:00 UTC",
                "2020-01-01 00",
                "2015-06-15",
            ]),
        }),
        OperandType::Element => Literal::Text(match rng.below(4) {
            0 => rng.word(&world::CHOICES),
            1 => world::record_id(rng.below(40)),
            _ => rng.word(&world::TEXTS),
        }),
        _ => match rng.below(8) {
            0 => number_literal(*rng.pick(&world::NUMBERS)),
            1 => world::record_id(rng.below(40)).into(),
            2 => Literal::Text(rng.word(&world::CHOICES)),
            3 => Literal::Integer(5),
            _ => Literal::Text(rng.word(&world::TEXTS)),
        },
    }
}

impl From<String> for Literal {
    fn from(text: String) -> Literal {
        Literal::Text(text)
    }
}

pub fn number_literal(number: Number) -> Literal {
    match number {
        Number::Integer(integer) => Literal::Integer(integer),
        Number::Real(real) => Literal::Real(real),
    }
}

pub fn number_text(number: Number) -> String {
    match number {
        Number::Integer(integer) => integer.to_string(),
        Number::Real(real) => format!("{real:?}"),
    }
}

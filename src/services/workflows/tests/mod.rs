//! The engine without its surroundings: the rules of the model, workers, and the simulation.

#![expect(clippy::needless_pass_by_value, reason = "json! makes values")]

mod node;
mod rules;
pub mod schema;
mod sim;
mod workers;

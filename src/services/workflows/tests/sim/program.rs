//! Model programs of runs, and their expected results.

use serde_json::{Value, json};

use crate::tests::rng::Rng;

/// One operation of a program.
#[derive(Clone, Debug)]
pub enum Op {
    /// A step that fails this often before it succeeds.
    Step {
        fails: i64,
    },
    /// A step that fails for good; the program continues.
    Fatal,
    Sleep {
        ms: i64,
    },
    /// A hook that receives one payload from the client.
    Hook {
        token: String,
    },
    Child(Program),
    Attribute,
}

#[derive(Clone, Debug)]
pub struct Program {
    pub ops: Vec<Op>,
    /// Ends with an error.
    pub fails: bool,
}

impl Program {
    pub fn draw(rng: &mut Rng, name: &str, depth: usize) -> Program {
        let ops = (0..rng.below(5)).map(|at| match rng.below(10) {
            0..=3 => Op::Step {
                fails: i64::try_from(rng.below(8).saturating_sub(5)).unwrap(),
            },
            4 => Op::Fatal,
            5 | 6 => Op::Sleep {
                ms: i64::try_from(rng.below(40_000)).unwrap(),
            },
            7 => Op::Hook {
                token: format!("{name}.{at}"),
            },
            8 if depth < 2 => Op::Child(Program::draw(rng, &format!("{name}.{at}"), depth + 1)),
            _ => Op::Attribute,
        });
        Program {
            ops: ops.collect(),
            fails: rng.one_in(8),
        }
    }

    pub fn to_json(&self) -> Value {
        let ops: Vec<Value> = self
            .ops
            .iter()
            .map(|op| match op {
                Op::Step { fails } => json!({"step": fails}),
                Op::Fatal => json!({"fatal": 0}),
                Op::Sleep { ms } => json!({"sleep": ms}),
                Op::Hook { token } => json!({"hook": token}),
                Op::Child(program) => json!({"child": program.to_json()}),
                Op::Attribute => json!({"attribute": 0}),
            })
            .collect();
        json!({"ops": ops, "fails": self.fails})
    }

    pub fn from_json(json: &Value) -> Program {
        let ops = json["ops"].as_array().unwrap().iter().map(|op| {
            let (name, value) = op.as_object().unwrap().iter().next().unwrap();
            match name.as_str() {
                "step" => Op::Step {
                    fails: value.as_i64().unwrap(),
                },
                "fatal" => Op::Fatal,
                "sleep" => Op::Sleep {
                    ms: value.as_i64().unwrap(),
                },
                "hook" => Op::Hook {
                    token: value.as_str().unwrap().to_owned(),
                },
                "child" => Op::Child(Program::from_json(value)),
                _ => Op::Attribute,
            }
        });
        Program {
            ops: ops.collect(),
            fails: json["fails"].as_bool().unwrap(),
        }
    }

    /// The tokens of its hooks, including those of its children.
    pub fn tokens(&self) -> Vec<String> {
        let tokens = self.ops.iter().flat_map(|op| match op {
            Op::Hook { token } => vec![token.clone()],
            Op::Child(program) => program.tokens(),
            _ => Vec::new(),
        });
        tokens.collect()
    }

    /// The output or the error of the program.
    pub fn result(&self) -> Result<Value, Value> {
        let results: Vec<Value> = self.ops.iter().enumerate().map(Program::outcome).collect();
        match self.fails {
            true => Err(json!({"kind": "fatal", "message": "as planned", "results": results})),
            false => Ok(json!(results)),
        }
    }

    fn outcome((at, op): (usize, &Op)) -> Value {
        match op {
            // A fourth failure exceeds the retries.
            Op::Step { fails } if *fails > 3 => json!("failed"),
            Op::Step { .. } => json!(format!("step {at}")),
            Op::Fatal => json!("failed"),
            Op::Sleep { .. } => json!("slept"),
            Op::Hook { token } => json!(format!("payload of {token}")),
            Op::Child(program) => match program.result() {
                Ok(value) => value,
                Err(error) => error,
            },
            Op::Attribute => json!("set"),
        }
    }
}

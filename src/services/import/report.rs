//! The result of an import: numbers, and everything that could not come along.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use crate::base::threads::lock;

/// Largest number of examples of one kind of loss.
const EXAMPLES_MAX: usize = 5;

/// The numbers of an import.
#[derive(Clone, Debug, Default)]
pub struct ImportCounts {
    pub collections: u64,
    pub records: u64,
    pub files: u64,
    pub file_bytes: u64,
    pub admins: u64,
    pub external_auths: u64,
}

/// Collects what could not come along: each reason with its count and some examples.
#[derive(Clone, Default)]
pub struct Losses(Arc<Mutex<BTreeMap<String, Loss>>>);

#[derive(Default)]
struct Loss {
    count: u64,
    examples: Vec<String>,
}

impl Losses {
    /// Adds an example of a loss.
    pub fn add(&self, reason: &str, example: impl Into<String>) {
        let mut all = lock(&self.0);
        let loss = all.entry(reason.to_owned()).or_default();
        loss.count += 1;
        if loss.examples.len() < EXAMPLES_MAX {
            loss.examples.push(example.into());
        }
    }

    /// Adds a loss without examples.
    pub fn note(&self, text: &str) {
        lock(&self.0).entry(text.to_owned()).or_default();
    }

    /// A sentence for each reason.
    pub fn lines(&self) -> Vec<String> {
        let line = |(reason, loss): (&String, &Loss)| match loss.count {
            0 => reason.clone(),
            count => {
                let more = if count > loss.examples.len() as u64 {
                    ", ..."
                } else {
                    ""
                };
                format!("{reason}: {count} ({}{more})", loss.examples.join(", "))
            }
        };
        lock(&self.0).iter().map(line).collect()
    }
}

/// The progress of one part of an import, for people who wait.
pub struct ImportProgress {
    pub part: &'static str,
    pub done: u64,
    pub total: u64,
}

/// Shows the progress. Called often: it decides how often it prints.
pub type ShowProgress = Arc<dyn Fn(&ImportProgress) + Send + Sync>;

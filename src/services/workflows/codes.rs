//! The words of the model and the numbers that `workflows.db` stores for them. A released number
//! never changes.

/// Gives an enum its numbers and its public words.
macro_rules! codes {
    ($(#[$doc:meta])* $name:ident { $($(#[$variant_doc:meta])* $variant:ident = $code:literal $word:literal,)* }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
        pub enum $name { $($(#[$variant_doc])* $variant = $code,)* }

        impl $name {
            /// All variants with their words.
            #[allow(clippy::allow_attributes, dead_code, reason = "not all are looked up by their words")]
            pub const ALL: &[($name, &'static str)] = &[$(($name::$variant, $word),)*];

            /// The names of the codes in SQL, with their numbers.
            pub const SQL: &[(&'static str, &'static str)] =
                &[$((concat!(stringify!($name), "::", stringify!($variant)), stringify!($code)),)*];

            /// The number in the database.
            pub const fn code(self) -> i64 {
                self as i64
            }

            /// The word in the API.
            pub const fn word(self) -> &'static str {
                match self { $($name::$variant => $word,)* }
            }
        }

        impl rusqlite::types::FromSql for $name {
            fn column_result(value: rusqlite::types::ValueRef<'_>) -> rusqlite::types::FromSqlResult<$name> {
                match value.as_i64()? {
                    $($code => Ok($name::$variant),)*
                    other => Err(rusqlite::types::FromSqlError::OutOfRange(other)),
                }
            }
        }

        impl rusqlite::ToSql for $name {
            fn to_sql(&self) -> rusqlite::Result<rusqlite::types::ToSqlOutput<'_>> {
                Ok(self.code().into())
            }
        }
    };
}

codes! {
    RunStatus {
        /// No worker has started it yet.
        Pending = 0 "pending",
        Running = 1 "running",
        Completed = 2 "completed",
        Failed = 3 "failed",
        Cancelled = 4 "cancelled",
    }
}

codes! {
    StepStatus {
        /// Not running: before its first attempt, or between two attempts.
        Pending = 0 "pending",
        Running = 1 "running",
        Completed = 2 "completed",
        Failed = 3 "failed",
        Cancelled = 4 "cancelled",
    }
}

codes! {
    EventKind {
        RunCreated = 1 "run_created",
        RunStarted = 2 "run_started",
        RunCompleted = 3 "run_completed",
        RunFailed = 4 "run_failed",
        RunCancelled = 5 "run_cancelled",
        AttrSet = 6 "attr_set",
        StepCreated = 7 "step_created",
        StepStarted = 8 "step_started",
        StepCompleted = 9 "step_completed",
        StepFailed = 10 "step_failed",
        StepRetrying = 11 "step_retrying",
        HookCreated = 12 "hook_created",
        HookReceived = 13 "hook_received",
        HookDisposed = 14 "hook_disposed",
        HookConflict = 15 "hook_conflict",
        WaitCreated = 16 "wait_created",
        WaitCompleted = 17 "wait_completed",
        /// A failed run continues where it stopped.
        RunResumed = 18 "run_resumed",
        /// A worker failed, and the run is dispatched again later.
        RunRetrying = 19 "run_retrying",
    }
}

codes! {
    /// The condition that an unfinished run waits for.
    JobState {
        /// A time or an event.
        Parked = 0 "waiting",
        /// A free worker.
        Ready = 1 "ready",
        /// The worker that holds its lease.
        Leased = 2 "leased",
        /// A fix of its code, and a retry by an operator.
        Paused = 3 "paused",
        /// Another run with the same concurrency key.
        Blocked = 4 "blocked",
        /// A time before which no event wakes it.
        Delayed = 5 "delayed",
    }
}

impl RunStatus {
    /// True once the status can no longer change, except by a retry.
    pub fn is_terminal(self) -> bool {
        self >= RunStatus::Completed
    }
}

impl StepStatus {
    /// True once the step has a result.
    pub fn is_terminal(self) -> bool {
        self >= StepStatus::Completed
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_words_and_numbers_are_each_ones_own() {
        for (at, (kind, word)) in EventKind::ALL.iter().enumerate() {
            assert_eq!(kind.code(), i64::try_from(at).unwrap() + 1);
            assert_eq!(kind.word(), *word);
        }
        assert!(RunStatus::Failed.is_terminal() && !RunStatus::Running.is_terminal());
        assert!(StepStatus::Cancelled.is_terminal() && !StepStatus::Running.is_terminal());
    }
}

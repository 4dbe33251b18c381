//! Actions of the command line on the runs of a node while no server runs there.

use crate::base::clock;
use crate::base::error::Result;
use crate::services::workflows::api_requests::{self, RunAction, WorkflowRequest};
use crate::services::workflows::engine::random_u64;
use crate::services::workflows::run_id::NodeTag;
use crate::services::workflows::sessions::WorkerGrant;
use crate::services::workflows::tx::{Effects, Tx};
use crate::store::db::Database;

/// Children cancelled at a time.
const CHILDREN_AT_A_TIME: usize = 256;

/// Applies one action to some runs and cancels the children of cancelled runs. Returns the answer
/// that the server would give.
pub fn apply(
    database: &Database,
    node: &str,
    runs: Vec<String>,
    action: RunAction,
) -> Result<String> {
    let node = NodeTag::of(node);
    database.write_for_long(move |db| {
        let mut random = random_u64;
        let mut tx = Tx {
            db,
            now: clock::now_ms(),
            node,
            random: &mut random,
            // The server scans for ready jobs when it starts.
            effects: Effects::default(),
        };
        let request = WorkflowRequest::Apply {
            runs,
            action,
            is_bulk: true,
        };
        let answer = api_requests::execute(&mut tx, &WorkerGrant::default(), &request)?;
        while cancel_children(&mut tx)? {}
        Ok(answer)
    })
}

/// Skips epochs after a restore: workers may hold runs under epochs that the restored data would
/// use again.
pub fn skip_epochs(database: &Database) -> Result<()> {
    database.write_for_long(|db| {
        // More than there can have been hand-outs since the backup, and more with each restore of
        // the same data.
        let skipped = clock::now_ms() / 1000;
        for sql in [
            "UPDATE jobs SET epoch = epoch + ?1",
            "UPDATE runs SET epoch = epoch + ?1",
        ] {
            db.prepare_cached(sql)?.execute([skipped])?;
        }
        Ok(())
    })
}

/// Cancels one portion of the queued children; true if there is more to do.
pub fn cancel_children(tx: &mut Tx<'_>) -> Result<bool> {
    let Some((parent, children)) = tx.children_to_cancel(CHILDREN_AT_A_TIME)? else {
        return Ok(false);
    };
    if children.is_empty() {
        tx.finish_child_cancellation(parent)?;
    }
    for child in children {
        tx.cancel_child(parent, child)?;
    }
    Ok(true)
}

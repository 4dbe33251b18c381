//! The journal of a run as workers receive it: the events that a replay needs, in order.

use rusqlite::{Connection, params};

use crate::base::error::Result;
use crate::base::json::Object;
use crate::services::workflows::codes::EventKind;
use crate::services::workflows::hooks::HookData;
use crate::services::workflows::sql::sql;

#[derive(Debug, Default, PartialEq, Eq)]
pub struct JournalPage {
    /// JSON objects.
    pub entries: Vec<String>,
    /// The sequence number of the last event examined.
    pub seq: i64,
    /// There are more entries after `seq`.
    pub more: bool,
}

/// The kinds of events that a replay needs. Failures before the last resume are not part of it, nor
/// are children that were dropped by the resume.
const ENTRIES: &str = sql!(
    "SELECT seq, kind, key, data, info, n FROM events e
     WHERE run = ?1 AND seq > ?2
       AND kind IN ({EventKind::StepCreated}, {EventKind::StepStarted}, {EventKind::StepCompleted},
                    {EventKind::StepFailed}, {EventKind::StepRetrying}, {EventKind::HookCreated},
                    {EventKind::HookReceived}, {EventKind::HookDisposed}, {EventKind::HookConflict},
                    {EventKind::WaitCreated}, {EventKind::WaitCompleted})
       AND (kind NOT IN ({EventKind::StepStarted}, {EventKind::StepFailed}, {EventKind::StepRetrying})
            OR seq > (SELECT resumed FROM runs WHERE id = ?1))
       AND (kind <> {EventKind::StepCreated}
            OR EXISTS (SELECT 1 FROM steps s WHERE s.run = ?1 AND s.key = e.key AND s.child = e.info))
     ORDER BY seq"
);

/// The journal after `after`, up to `bytes`. With `one` the page has at least one entry; without it
/// a page may be empty.
pub fn read(db: &Connection, run: i64, after: i64, bytes: usize, one: bool) -> Result<JournalPage> {
    let mut statement = db.prepare_cached(ENTRIES)?;
    let mut rows = statement.query(params![run, after])?;
    let mut page = JournalPage {
        seq: after,
        ..JournalPage::default()
    };
    let mut size = 0;
    while let Some(row) = rows.next()? {
        let seq: i64 = row.get(0)?;
        let data: Option<String> = row.get(3)?;
        size += data.as_ref().map_or(0, String::len) + 64;
        if size > bytes && !(one && page.entries.is_empty()) {
            page.more = true;
            return Ok(page);
        }
        let kind: EventKind = row.get(1)?;
        let key: String = row.get(2)?;
        let (info, n) = (row.get(4)?, row.get(5)?);
        page.entries
            .push(entry(seq, kind, &key, data.as_deref(), info, n));
        page.seq = seq;
    }
    drop(rows);
    // Events that are no entries count as seen.
    let sql = "SELECT coalesce(max(seq), 0) FROM events WHERE run = ?1";
    let last: i64 = db.prepare_cached(sql)?.query_row([run], |row| row.get(0))?;
    page.seq = page.seq.max(last);
    Ok(page)
}

fn entry(
    seq: i64,
    kind: EventKind,
    key: &str,
    data: Option<&str>,
    info: Option<i64>,
    n: Option<i64>,
) -> String {
    let object = |kind: &str| {
        Object::new()
            .int("seq", seq)
            .text("kind", kind)
            .text("key", key)
    };
    let data = data.unwrap_or("null");
    let entry = match kind {
        EventKind::StepCompleted => object("step").raw("ok", data),
        EventKind::StepFailed => object("step").raw("err", data),
        EventKind::StepRetrying => object("retry")
            .some_int("attempt", n)
            .some_int("at", info)
            .raw("err", data),
        EventKind::StepStarted => object("begun").some_int("attempt", n),
        EventKind::StepCreated => object("child").raw("run", data),
        EventKind::WaitCreated => object("sleep").some_int("until", info),
        EventKind::WaitCompleted => object("wake"),
        EventKind::HookReceived => object("payload").raw("ok", data),
        EventKind::HookDisposed => object("disposed"),
        EventKind::HookConflict => {
            let error = r#"{"kind":"conflict","message":"Another hook already has this token."}"#;
            object("hook").raw("err", error)
        }
        EventKind::HookCreated => {
            let hook: Option<HookData> = serde_json::from_str(data).ok();
            object("hook").some_text("token", hook.as_ref().map(|hook| hook.token.as_str()))
        }
        _ => object("other"),
    };
    entry.end()
}

//! `vski files check`: what it finds and mends, on a disk and in a bucket, beside a running server.

use std::path::PathBuf;
use std::process::Command;

use serde_json::Value;

use super::{DOCS, Place, Site, bucket_settings, form, link, on_both, send, server, stored};
use crate::support::server::command;
use crate::support::{sqlite_for_writing, wait_until};

/// Runs the command; returns its exit code and lines.
fn check(server: &Site, flags: &[&str]) -> (Option<i32>, Vec<String>) {
    let mut command: Command = command(server.dir());
    command.args(["files", "check"]).args(flags);
    if let Some(s3) = &server.s3 {
        command.envs(bucket_settings(&s3.endpoint()));
    }
    let output = command.output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    let error = String::from_utf8(output.stderr).unwrap();
    assert_eq!(error, "");
    (
        output.status.code(),
        text.lines().map(str::to_owned).collect(),
    )
}

/// The finding about the file with this content.
fn line<'a>(lines: &'a [String], record: &Value) -> &'a str {
    let name = record["doc"].as_str().unwrap();
    lines
        .iter()
        .find(|line| line.contains(name))
        .map_or("", |line| line.as_str())
}

/// Damages the first records in as many ways; returns a file that is left over, and one that is too
/// young for that.
fn damage(server: &Site, records: &[Value]) -> (PathBuf, PathBuf) {
    let file = |at: usize| {
        let name = records[at]["doc"].as_str().unwrap();
        stored(server)
            .into_iter()
            .find(|path| path.ends_with(name))
            .unwrap()
    };
    std::fs::remove_file(file(0)).unwrap();
    std::fs::write(file(1), b"DAMAGED").unwrap();
    std::fs::write(file(2), b"sh").unwrap();
    let database = sqlite_for_writing(&server.dir().join("data/default.db"));
    let name = records[3]["doc"].as_str().unwrap();
    assert_eq!(
        database
            .execute("DELETE FROM _files WHERE name = ?1", [name])
            .unwrap(),
        1
    );
    let id = records[4]["id"].as_str().unwrap();
    assert_eq!(
        database
            .execute("DELETE FROM docs WHERE id = ?1", [id])
            .unwrap(),
        1
    );
    let left_over = file(5).with_file_name("left_over.txt");
    std::fs::copy(file(5), &left_over).unwrap();
    let young = file(5).with_file_name("young.txt");
    std::fs::copy(file(5), &young).unwrap();
    let past = std::time::SystemTime::UNIX_EPOCH + std::time::Duration::from_secs(1_000_000_000);
    std::fs::File::options()
        .write(true)
        .open(&left_over)
        .unwrap()
        .set_modified(past)
        .unwrap();
    (left_over, young)
}

fn every_kind_of_damage_is_found_and_mended_where_it_can_be(place: Place) {
    let server = server(place);
    let api = server.api();
    let make = |content: &[u8]| {
        let body = form(&[
            ("doc", Some("a.txt"), content),
            ("pics", Some("b.txt"), content),
        ]);
        send(&api, "POST", DOCS, &body).expect(200).json
    };
    let records: Vec<Value> = [
        "missing",
        "damaged",
        "short",
        "unlisted",
        "abandoned",
        "fine",
    ]
    .map(|it| make(it.as_bytes()))
    .to_vec();
    let (code, lines) = check(&server, &[]);
    assert_eq!(code, Some(0), "{lines:?}");
    assert_eq!(
        lines,
        ["12 files with 80 bytes checked, 0 findings, 0 repaired."]
    );

    let (left_over, young) = damage(&server, &records);
    for (flags, note) in [(vec![], ""), (vec!["--repair"], "  (repaired)")] {
        let (code, lines) = check(&server, &flags);
        assert_eq!(code, Some(1), "{lines:?}");
        assert!(
            line(&lines, &records[0]).starts_with("missing"),
            "{lines:?}"
        );
        assert!(
            line(&lines, &records[1]).starts_with("damaged"),
            "{lines:?}"
        );
        assert!(
            line(&lines, &records[2]).starts_with("damaged"),
            "{lines:?}"
        );
        for (at, kind) in [(3, "unlisted"), (4, "abandoned")] {
            let line = line(&lines, &records[at]);
            assert!(line.starts_with(kind) && line.ends_with(note), "{lines:?}");
        }
        assert_eq!(line(&lines, &records[5]), "");
        let found = lines
            .iter()
            .find(|line| line.contains("left_over.txt"))
            .unwrap();
        assert!(
            found.starts_with("left over") && found.ends_with(note),
            "{lines:?}"
        );
        assert!(lines.last().unwrap().contains("7 findings"), "{lines:?}");
    }
    let (code, lines) = check(&server, &[]);
    assert_eq!((code, lines.len()), (Some(1), 4), "{lines:?}");
    assert!(young.exists() && !left_over.exists());
    assert_eq!(
        api.get(&link(&records[3], &records[3]["doc"]))
            .expect(200)
            .body,
        b"unlisted"
    );
    // The server deletes the files that the check queued for it.
    let server = server.restart();
    wait_until("the abandoned ones are gone", || {
        let name = records[4]["doc"].as_str().unwrap();
        !stored(&server).iter().any(|path| path.ends_with(name))
    });
}

fn wrong_use_says_how(place: Place) {
    let server = server(place);
    for flags in [&["x"][..], &["--repiar"], &["--repair", "y"]] {
        let mut command = command(server.dir());
        let output = command
            .args(["files", "check"])
            .args(flags)
            .output()
            .unwrap();
        assert_eq!(output.status.code(), Some(2), "{flags:?}");
    }
    let mut command = command(server.dir());
    let output = command
        .args(["files", "check", "--data-dir", "/nowhere"])
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert!(
        String::from_utf8(output.stderr)
            .unwrap()
            .contains("no data in /nowhere")
    );
}

on_both!(
    every_kind_of_damage_is_found_and_mended_where_it_can_be,
    wrong_use_says_how
);

//! Paths, sorts and statements with new names.

use serde_json::json;

use super::names::Renames;
use super::paths::PathRenamer;
use super::statement;
use crate::model::collections::{Collection, CollectionKind, Collections, test_collection};

fn world() -> Vec<Collection> {
    let text = |id: &str, name: &str| json!({"id": id, "name": name, "type": "text"});
    let to = |id: &str, name: &str, target: &str, max: u32| json!({"id": id, "name": name, "type": "relation", "collectionId": target, "maxSelect": max});
    let mut users = test_collection(
        "u",
        "users",
        json!([text("u1", "role"), text("u2", "note")]),
    );
    users.kind = CollectionKind::Auth;
    let posts = json!([text("p1", "title"), to("p2", "owner", "u", 1), text("p3", "body"),
        {"id": "p4", "name": "meta", "type": "json"}]);
    let comments = json!([
        to("c1", "post", "p", 3),
        text("c2", "title"),
        to("c3", "up", "c", 1)
    ]);
    vec![
        users,
        test_collection("p", "posts", posts),
        test_collection("c", "comments", comments),
    ]
}

/// The definitions before, and the renames of collections (`posts`) and fields (`posts.title`).
fn renamed(pairs: &[(&str, &str)]) -> (Collections, Renames) {
    let before = world();
    let mut renames = Renames::default();
    for collection in &before {
        let mut next = collection.clone();
        for (old, new) in pairs {
            match old.split_once('.') {
                None if *old == collection.name => (*new).clone_into(&mut next.name),
                Some((of, old)) if of == collection.name => {
                    let mut before = collection.fields.iter();
                    let at = before.position(|field| field.name == old).unwrap();
                    (*new).clone_into(&mut next.fields[at].name);
                }
                _ => {}
            }
        }
        renames.add(collection, &next);
    }
    (Collections::from_iter(before), renames)
}

const PAIRS: [(&str, &str); 6] = [
    ("posts", "articles"),
    ("posts.title", "headline"),
    ("posts.owner", "author"),
    ("comments.post", "article"),
    ("users.role", "kind"),
    ("posts.meta", "data"),
];

#[test]
fn paths_of_rules_follow_and_everything_else_stays() {
    let (before, renames) = renamed(&PAIRS);
    let paths = PathRenamer {
        before: &before,
        renames: &renames,
    };
    let root = before.find("posts").unwrap();
    for (rule, expected) in [
        ("title='title'//title", "headline='title'//title"),
        (
            "(title  ~ \"title\") // x\n&& body = title",
            "(headline  ~ \"title\") // x\n&& body = headline",
        ),
        (
            "owner.role:lower = 'a' || owner.id = owner",
            "author.kind:lower = 'a' || author.id = author",
        ),
        (
            "comments_via_post.title ?= 'a'",
            "comments_via_article.title ?= 'a'",
        ),
        (
            "c_via_post.up.post.title ?= 'a'",
            "c_via_article.up.article.headline ?= 'a'",
        ),
        (
            "@collection.posts.title ?= @collection.posts:x.owner.role",
            "@collection.articles.headline ?= @collection.articles:x.author.kind",
        ),
        (
            "@collection.p.title ?= 'a'",
            "@collection.p.headline ?= 'a'",
        ),
        (
            "@request.body.title:isset = true",
            "@request.body.headline:isset = true",
        ),
        (
            "@request.body.owner.role = @request.auth.role",
            "@request.body.author.kind = @request.auth.kind",
        ),
        (
            "@request.query.title = '' && @request.auth.id != ''",
            "@request.query.title = '' && @request.auth.id != ''",
        ),
        (
            "meta.title = 1 && meta.owner.x = 2",
            "data.title = 1 && data.owner.x = 2",
        ),
        (
            "geoDistance(meta.lon, title, 1, 2) < 3",
            "geoDistance(data.lon, headline, 1, 2) < 3",
        ),
        (
            "created > @todayStart && id != title",
            "created > @todayStart && id != headline",
        ),
        (
            "title IN ('title', \"owner\") AND NOT title IS NULL",
            "headline IN ('title', \"owner\") AND NOT headline IS NULL",
        ),
        ("unknown.title = 1", "unknown.title = 1"),
        ("title = 'open", "title = 'open"),
    ] {
        assert_eq!(paths.filter(root, rule).unwrap(), expected);
    }
}

#[test]
fn paths_of_sorts_follow() {
    let (before, renames) = renamed(&PAIRS);
    let paths = PathRenamer {
        before: &before,
        renames: &renames,
    };
    let root = before.find("posts").unwrap();
    for (sort, expected) in [
        (
            "-title, +owner.role ,@random",
            "-headline, +author.kind ,@random",
        ),
        ("", ""),
        ("title,,body", "headline,,body"),
    ] {
        assert_eq!(paths.sort(root, sort).unwrap(), expected);
    }
}

#[test]
fn names_swap_in_rules_and_in_statements() {
    let (before, renames) = renamed(&[
        ("posts", "comments"),
        ("comments", "posts"),
        ("posts.title", "body"),
        ("posts.body", "title"),
    ]);
    let paths = PathRenamer {
        before: &before,
        renames: &renames,
    };
    let root = before.find("posts").unwrap();
    assert_eq!(
        paths
            .filter(root, "title = body && comments_via_post.title ?= 'a'")
            .unwrap(),
        "body = title && posts_via_post.title ?= 'a'"
    );
    let sql = "SELECT p.id, p.title, p.body AS b FROM posts p, comments c WHERE c.title = p.title";
    assert_eq!(
        statement::rewrite(sql, &renames, &before).unwrap(),
        "SELECT p.id, p.body AS title, p.title AS b FROM comments p, posts c WHERE c.title = p.body"
    );
}

#[test]
fn statements_follow_and_keep_the_names_of_their_columns() {
    let (before, renames) = renamed(&PAIRS);
    for (sql, expected) in [
        (
            "SELECT id, title FROM posts",
            "SELECT id, headline AS title FROM articles",
        ),
        (
            "select ID, posts.\"title\", `title` as t from [posts]",
            "select ID, articles.\"headline\" AS \"title\", \"headline\" as t from \"articles\"",
        ),
        (
            "SELECT c.id, c.title FROM comments c JOIN posts p ON p.id = c.post",
            "SELECT c.id, c.title FROM comments c JOIN articles p ON p.id = c.article",
        ),
        (
            "SELECT x.id, x.title FROM (SELECT id, title FROM posts /* title */) AS x",
            "SELECT x.id, x.title FROM (SELECT id, headline AS title FROM articles /* title */) AS x",
        ),
        (
            "WITH x AS (SELECT id, title FROM posts) SELECT id, upper(title) AS up FROM x",
            "WITH x AS (SELECT id, headline AS title FROM articles) SELECT id, upper(title) AS up FROM x",
        ),
        (
            "SELECT id, title FROM posts WHERE title IN (SELECT title FROM comments) UNION SELECT id, title FROM comments",
            "SELECT id, headline AS title FROM articles WHERE headline IN (SELECT title FROM comments) UNION SELECT id, title FROM comments",
        ),
        (
            "SELECT u.id, count(p.id) AS n FROM users u LEFT JOIN posts p ON p.owner = u.id WHERE u.role <> 'role' GROUP BY u.id",
            "SELECT u.id, count(p.id) AS n FROM users u LEFT JOIN articles p ON p.author = u.id WHERE u.kind <> 'role' GROUP BY u.id",
        ),
        ("SELECT id, note FROM users", "SELECT id, note FROM users"),
        ("SELECT id, nothing FROM posts", ""),
    ] {
        match statement::rewrite(sql, &renames, &before) {
            Ok(text) => assert_eq!(text, expected),
            Err(error) => assert_eq!(expected, "", "{sql}: {error}"),
        }
    }
}

#[test]
fn a_statement_in_which_the_new_name_means_something_else_is_refused() {
    let (before, renames) = renamed(&PAIRS);
    for sql in [
        "WITH articles AS (SELECT 1 AS n) SELECT id, n FROM posts, articles",
        "SELECT id, 1 AS headline, title FROM posts ORDER BY title",
        "SELECT id, (SELECT headline FROM comments) AS x FROM posts",
    ] {
        let error = statement::rewrite(sql, &renames, &before).unwrap_err();
        assert!(
            error.message().contains("for something else"),
            "{sql}: {error}"
        );
    }
    // A column of another table may have the name, written with its table.
    let (before, renames) = renamed(&[("posts.title", "note")]);
    let sql = "SELECT p.id, p.title, u.note FROM posts p JOIN users u ON u.id = p.owner";
    let expected =
        "SELECT p.id, p.note AS title, u.note FROM posts p JOIN users u ON u.id = p.owner";
    assert_eq!(
        statement::rewrite(sql, &renames, &before).unwrap(),
        expected
    );
}

#[test]
fn a_keyword_as_the_new_name_is_quoted() {
    let (before, renames) = renamed(&[
        ("posts", "group"),
        ("posts.title", "order"),
        ("posts.body", "1st"),
    ]);
    let sql = "SELECT id, title AS t, body AS b FROM posts";
    assert_eq!(
        statement::rewrite(sql, &renames, &before).unwrap(),
        "SELECT id, \"order\" AS t, \"1st\" AS b FROM \"group\""
    );
}

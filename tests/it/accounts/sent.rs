//! Rules about the records that a request points to: `@request.body.owner.role`; and the names
//! under which what was sent is refused.

use serde_json::{Value, json};

use super::{register, server, signed_in};
use crate::support::api::Api;
use crate::support::server::Server;

/// Accounts with a role and a rank, and tasks with an owner and helpers, made and changed as `rule`
/// says.
fn with_tasks(rule: &str) -> (Server, Api, Api, String, String) {
    let server = server();
    let admin = server.admin();
    let mut users = admin.get("/api/collections/users").json;
    let fields = users["fields"].as_array_mut().unwrap();
    fields.push(json!({"name": "role", "type": "select", "values": ["guest", "staff"]}));
    fields.push(json!({"name": "rank", "type": "number"}));
    let users = json!({"fields": fields, "viewRule": ""});
    admin.patch("/api/collections/users", users).expect(200);
    let (guest, staff) = (register(&server, "guest"), register(&server, "staff"));
    for (id, role, rank) in [(&guest, "guest", 1), (&staff, "staff", 5)] {
        let path = format!("/api/collections/users/records/{id}");
        admin
            .patch(&path, json!({"role": role, "rank": rank}))
            .expect(200);
    }
    admin
        .post("/api/collections", tasks(&json!(rule)))
        .expect(200);
    let own = json!({"id": "t", "owner": staff, "helpers": [staff]});
    admin.post(TASKS, own).expect(200);
    let (guests, staffs) = (signed_in(&server, "guest"), signed_in(&server, "staff"));
    (server, guests, staffs, guest, staff)
}

const TASKS: &str = "/api/collections/tasks/records";

fn tasks(rule: &Value) -> Value {
    json!({"name": "tasks", "createRule": rule, "updateRule": rule, "listRule": "", "viewRule": "",
    "fields": [
        {"name": "title", "type": "text"},
        {"name": "owner", "type": "relation", "collectionId": "users"},
        {"name": "helpers", "type": "relation", "collectionId": "users", "maxSelect": 5},
    ]})
}

/// A rule that keeps guests from owning anything let them: the path behind the relation was read as
/// nothing, and nothing differs from every role. It is followed now, for new records and changes,
/// alone, in bulk and in a batch.
#[test]
fn a_rule_sees_the_records_that_a_request_points_to() {
    let rule = "@request.auth.id != '' && @request.body.owner.role != 'guest'";
    let (_server, guests, staffs, guest, staff) = with_tasks(rule);
    let (of_guest, of_staff) = (json!({"owner": guest}), json!({"owner": staff}));
    guests.post(TASKS, &of_guest).expect(400);
    staffs.post(TASKS, &of_guest).expect(400);
    staffs.post(TASKS, &of_staff).expect(200);
    guests.patch(&format!("{TASKS}/t"), &of_guest).expect(404);
    let bulk = json!({"ids": ["t"], "data": of_guest});
    guests.patch(TASKS, bulk).expect(404);
    for (method, url) in [("POST", TASKS.to_owned()), ("PATCH", format!("{TASKS}/t"))] {
        let request = json!({"method": method, "url": url, "body": of_guest});
        guests
            .post("/api/batch", json!({"requests": [request]}))
            .expect(400);
        let request = json!({"method": method, "url": url, "body": of_staff});
        staffs
            .post("/api/batch", json!({"requests": [request]}))
            .expect(200);
    }
    // A missing owner is not staff.
    let stranger = json!({"owner": "stranger"});
    staffs.post(TASKS, stranger).expect(400);
    // Without an owner there is no guest. A rule that needs an owner must say so.
    staffs
        .post(TASKS, json!({"title": "of nobody"}))
        .expect(200);
    staffs
        .patch(&format!("{TASKS}/t"), json!({"title": "t"}))
        .expect(200);
    let owner = staffs.get(&format!("{TASKS}/t")).text("/owner").to_owned();
    assert_eq!(owner, staff);
}

/// The same with `=`, which refused everyone, and without an owner in the request.
#[test]
fn a_rule_may_want_the_record_that_a_request_points_to() {
    let (_server, guests, staffs, guest, staff) =
        with_tasks("@request.body.owner.role = 'staff' && @request.body.owner.rank > 4");
    staffs.post(TASKS, json!({"owner": staff})).expect(200);
    guests.post(TASKS, json!({"owner": guest})).expect(400);
    for nobody in [json!({}), json!({"owner": ""}), json!({"owner": null})] {
        staffs.post(TASKS, nobody).expect(400);
    }
    let path = format!("{TASKS}/t");
    staffs.patch(&path, json!({"title": "x"})).expect(404);
    let both = json!({"title": "x", "owner": staff});
    staffs.patch(&path, both).expect(200);
}

/// Several values ask for all of them, with `?` for any, as elsewhere.
#[test]
fn a_rule_sees_all_records_that_a_request_points_to() {
    let (server, guests, _staffs, guest, staff) =
        with_tasks("@request.body.helpers.role != 'guest'");
    let (one, both) = (
        json!({"helpers": [staff]}),
        json!({"helpers": [staff, guest]}),
    );
    guests.post(TASKS, &one).expect(200);
    guests.post(TASKS, &both).expect(400);
    let more = json!({"helpers+": guest});
    guests.patch(&format!("{TASKS}/t"), &more).expect(404);
    let admin = server.admin();
    for (rule, of_one, of_both) in [
        ("@request.body.helpers.role ?!= 'guest'", 200, 200),
        ("@request.body.helpers.role ?= 'guest'", 400, 200),
        ("@request.body.helpers.role = 'staff'", 200, 400),
        ("@request.body.helpers.role !~ 'gue'", 200, 400),
    ] {
        let rules = json!({"createRule": rule});
        admin.patch("/api/collections/tasks", rules).expect(200);
        guests.post(TASKS, &one).expect(of_one);
        guests.post(TASKS, &both).expect(of_both);
    }
}

/// A path that leads nowhere was stored, and read as nothing for ever.
#[test]
fn a_rule_with_a_path_that_leads_nowhere_is_refused() {
    let server = server();
    let admin = server.admin();
    for rule in [
        "@request.body.title.nonsense != 1",
        "@request.body.title.nonsense.more != 1",
        "@request.body.owner.nonsense != 1",
        "@request.body.owner.name.more != 1",
        "@request.body.owner.password != 1",
        "@request.body.id.more != 1",
        "@request.body.owner:isset.name = true",
        "@request.body.owner.verified = 'perhaps'",
        "@request.body.helpers.created > 'yesterday'",
    ] {
        let refused = admin
            .post("/api/collections", tasks(&json!(rule)))
            .expect(400);
        assert!(refused.json["data"]["createRule"].is_object(), "{rule}");
    }
    let right = "@request.body.owner.verified = true && @request.body.helpers.groups.0 ?!= 'a'";
    admin
        .post("/api/collections", tasks(&json!(right)))
        .expect(200);
}

/// A wrong new address was told as one of `email`, which is not the name that it is sent under.
#[test]
fn a_wrong_new_address_is_told_under_its_name() {
    let server = server();
    register(&server, "ann");
    let ann = signed_in(&server, "ann");
    let path = "/api/collections/users/request-email-change";
    let wrong = json!({"newEmail": "no address"});
    let refused = ann.post(path, wrong).expect(400);
    let code = refused.text("/data/newEmail/code");
    assert_eq!(code, "validation_is_email");
    let refused = ann.post(path, json!({})).expect(400);
    assert!(refused.text("/message").contains("`newEmail`"));
}

const PAGES: &str = "/api/collections/pages/records";

/// Pages with json of their own and of their themes. Returns bodies that send, in each way, json
/// without a colour, and bodies that send json with one.
fn with_themes(admin: &Api) -> (Vec<Value>, Vec<Value>) {
    let themes =
        json!({"name": "themes", "viewRule": "", "fields": [{"name": "meta", "type": "json"}]});
    let themes = admin.post("/api/collections", themes).expect(200);
    let fields = json!([
        {"name": "theme", "type": "relation", "collectionId": themes.text("/id")},
        {"name": "themes", "type": "relation", "collectionId": themes.text("/id"), "maxSelect": 5},
        {"name": "meta", "type": "json"},
    ]);
    let pages = json!({"name": "pages", "fields": fields});
    admin.post("/api/collections", pages).expect(200);
    admin.post(PAGES, json!({"id": "p"})).expect(200);
    let mut without = vec![
        json!({}),
        json!({"theme": null}),
        json!({"theme": ""}),
        json!({"themes": null}),
        json!({"themes": []}),
    ];
    let mut with = Vec::new();
    let metas = [
        (json!(null), false),
        (json!({}), false),
        (json!([1]), false),
        (json!({"colour": null}), false),
        (json!({"colour": ""}), false),
        (json!({"colour": "blue"}), true),
        (json!({"colour": " "}), true),
        (json!({"colour": 0}), true),
        (json!({"colour": []}), true),
    ];
    for (at, (meta, has_colour)) in metas.iter().enumerate() {
        let id = format!("theme{at}");
        let theme = json!({"id": id, "meta": meta});
        let path = "/api/collections/themes/records";
        admin.post(path, theme).expect(200);
        let bodies = if *has_colour { &mut with } else { &mut without };
        bodies.push(json!({"theme": id}));
        bodies.push(json!({"themes": [id]}));
        bodies.push(json!({"meta": meta}));
    }
    (without, with)
}

/// `= ''` was true if a request named no record, but false if the json of the record had no such
/// value, and `!= ''` admitted the second. In a request, json without a value, with `null` or with
/// an empty text is nothing, behind a relation as in a field of the record itself.
#[test]
fn json_without_a_value_is_nothing_behind_a_relation_too() {
    let server = server();
    let (admin, anyone) = (server.admin(), server.api());
    let (without, with) = with_themes(&admin);
    // Each rule, and whether it admits what has no colour, and what has another one than red.
    for (rule, admits_without, admits_with) in [
        ("X = ''", true, false),
        ("'' = X", true, false),
        ("X = null", true, false),
        ("X IS NULL", true, false),
        ("X IN ('', 'red')", true, false),
        ("X != ''", false, true),
        ("NOT X = ''", false, true),
        ("NOT '' ?!= X", true, false),
        ("X IS NOT NULL", false, true),
        ("X ~ ''", false, true),
        ("X !~ 'red'", false, true),
        ("X = 'red'", false, false),
        ("X != 'red'", true, true),
        ("X = @request.auth.id", false, false),
        ("X != id", true, true),
    ] {
        for way in ["theme", "themes", "meta"] {
            let end = if way == "meta" { "" } else { ".meta" };
            let rule = rule.replace('X', &format!("@request.body.{way}{end}.colour"));
            let rules = json!({"createRule": rule, "updateRule": rule});
            admin.patch("/api/collections/pages", rules).expect(200);
            let cases = without.iter().map(|body| (body, admits_without));
            let cases = cases.chain(with.iter().map(|body| (body, admits_with)));
            for (body, admits) in cases {
                let names_other = body.as_object().unwrap().keys().any(|name| name != way);
                if names_other {
                    continue;
                }
                let created = anyone.post(PAGES, body).status;
                let changed = anyone.patch(&format!("{PAGES}/p"), body).status;
                let wanted = if admits { (200, 200) } else { (400, 404) };
                assert_eq!((created, changed), wanted, "{rule} and {body}");
            }
        }
    }
}

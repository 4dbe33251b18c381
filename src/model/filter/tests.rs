//! The grammar of filters and sorts.

use super::parser::BYTES_MAX;
use super::tree::{Expr, Operand, SortTerm};
use super::{parse, parse_sort};

/// The tree with all parentheses.
fn show(expr: &Expr) -> String {
    let join = |list: &[Expr], op: &str| {
        let parts: Vec<String> = list.iter().map(show).collect();
        format!("({})", parts.join(op))
    };
    match expr {
        Expr::And(list) => join(list, " & "),
        Expr::Or(list) => join(list, " | "),
        Expr::Not(inner) => format!("!{}", show(inner)),
        Expr::In(operand, list) => format!("{} in {}", show_operand(operand), list.len()),
        Expr::Compare(c) => format!(
            "{} {}{:?} {}",
            show_operand(&c.left),
            if c.any { "any" } else { "" },
            c.op,
            show_operand(&c.right)
        ),
    }
}

fn show_operand(operand: &Operand) -> String {
    match operand {
        Operand::Path(path) => path.join("."),
        Operand::Literal(literal) => format!("{literal:?}"),
        Operand::Call(function, list) => {
            let list: Vec<String> = list.iter().map(show_operand).collect();
            format!("{}({})", function.name(), list.join(", "))
        }
    }
}

fn check(text: &str, expected: &str) {
    assert_eq!(
        parse(text).map(|expr| show(&expr)).unwrap(),
        expected,
        "{text}"
    );
}

#[test]
fn precedence_is_not_then_and_then_or() {
    check("a=b || c=d && e=f", "(a Equal b | (c Equal d & e Equal f))");
    check(
        "(a=b OR c=d) and e=f",
        "((a Equal b | c Equal d) & e Equal f)",
    );
    check("not a=b && c=d", "(!a Equal b & c Equal d)");
    check("!(a=b && c=d)", "!(a Equal b & c Equal d)");
}

#[test]
fn operators_and_operands() {
    check("a ?~ 'x'", "a anyLike Text(\"x\")");
    check("a<>1.5", "a NotEqual Real(1.5)");
    check("a >= -3", "a GreaterOrEqual Integer(-3)");
    check("1=0", "Integer(1) Equal Integer(0)");
    check("a IS NULL", "a Equal Null");
    check("a is not null", "a NotEqual Null");
    check("a in (1, 'b', null)", "a in 3");
    check("a NOT IN (1)", "!a in 1");
    check(
        "@request.auth.id != author.name",
        "@request.auth.id NotEqual author.name",
    );
    check(
        "a=true&&b=False",
        "(a Equal Bool(true) & b Equal Bool(false))",
    );
}

#[test]
fn comments_end_with_the_line() {
    check(
        "// who\n a = 1 // && b = 2\n && c = '//' // end",
        "(a Equal Integer(1) & c Equal Text(\"//\"))",
    );
    assert!(parse("// nothing").is_err());
    assert!(parse("a / 1").is_err());
}

#[test]
fn a_comparison_with_a_distance_asks_for_any_value() {
    check(
        "geoDistance(a.lon, a.lat, 1, -2.5) < 10",
        "geoDistance(a.lon, a.lat, Integer(1), Real(-2.5)) anyLess Integer(10)",
    );
    check(
        "'2026' = strftime('%Y', created, '+1 day')",
        "Text(\"2026\") Equal strftime(Text(\"%Y\"), created, Text(\"+1 day\"))",
    );
    for text in [
        "geoDistance(1, 2, 3) < 1",
        "geoDistance(1, 2, 3, 4, 5) < 1",
        "geodistance(1, 2, 3, 4) < 1",
        "strftime() = ''",
        "strftime('%Y' created) = ''",
        "strftime('%Y',) = ''",
        "strftime('%Y', strftime('%Y')) = ''",
        "strftime('%Y'",
        "lower(a) = 'x'",
    ] {
        assert!(parse(text).is_err(), "{text}");
    }
}

#[test]
fn a_name_may_have_a_modifier() {
    check(
        "@collection.a:x.tags:each ?= b:lower",
        "@collection.a:x.tags:each anyEqual b:lower",
    );
}

#[test]
fn texts_keep_what_is_in_them() {
    check(r#"a = "it's""#, "a Equal Text(\"it's\")");
    check("a = 'it''s'", "a Equal Text(\"it's\")");
    check(r"a = 'it\'s \\ \n'", r#"a Equal Text("it's \\ \\n")"#);
    check(
        "a = '\u{fc}\u{1f600}; DROP TABLE x --'",
        "a Equal Text(\"\u{fc}\u{1f600}; DROP TABLE x --\")",
    );
    check("a = ''", "a Equal Text(\"\")");
}

#[test]
fn what_is_no_filter_is_refused() {
    for text in [
        "",
        " ",
        "a",
        "a=",
        "=a",
        "a=b c",
        "(a=b",
        "a=b)",
        "a==b==c",
        "a='x",
        "a=b &&",
        "|| a=b",
        "a in ()",
        "a in (b)",
        "a in 1",
        "a is 1",
        "a. = 1",
        ".a = 1",
        "a..b=1",
        "a@b=1",
        "@=1",
        "a=1;",
        "a=--1",
        "a=1e",
        "a=1e999",
        "a=$1",
        "a = ?",
        "a ? b",
        "\u{e9}=1",
        "a.b.c.d.e.f.g.h.i.j.k=1",
    ] {
        assert!(parse(text).is_err(), "{text}");
    }
    assert!(parse(&format!("{}a=b{}", "(".repeat(40), ")".repeat(40))).is_err());
    assert!(parse(&"!".repeat(4000)).is_err());
    assert!(parse(&vec!["a=b"; 201].join("||")).is_err());
    assert!(parse(&format!("a='{}'", "x".repeat(BYTES_MAX))).is_err());
}

#[test]
fn sorts() {
    let term = |name: &str, descending| SortTerm {
        path: vec![name.to_owned()],
        descending,
    };
    assert_eq!(
        parse_sort("-a, b,+c").unwrap(),
        [term("a", true), term("b", false), term("c", false)]
    );
    assert_eq!(parse_sort("").unwrap(), []);
    for text in ["a b", "--a", "-", "a;", "1", "'a'", "a,b,c,d,e,f,g,h,i"] {
        assert!(parse_sort(text).is_err(), "{text}");
    }
}

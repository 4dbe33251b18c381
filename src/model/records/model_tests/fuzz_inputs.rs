//! Generates inputs for the filter parser: noise, nearly valid texts and attacks.

use super::filters;
use super::filters::FilterMaker;
use crate::tests::rng::Rng;

const TOKENS: [&str; 79] = [
    "(",
    ")",
    ",",
    "&&",
    "||",
    "!",
    "AND",
    "or",
    "Not",
    "IN",
    "is",
    "null",
    "true",
    "FALSE",
    "=",
    "==",
    "!=",
    "<>",
    ">",
    ">=",
    "<",
    "<=",
    "~",
    "!~",
    "?=",
    "?!=",
    "?~",
    "?",
    "'a'",
    "\"b\"",
    "''",
    "'",
    "\"",
    "\\",
    "0",
    "1",
    "-1",
    "1.5",
    "1e5",
    "-",
    ".",
    "5.",
    "name",
    "title",
    "tags",
    "friends",
    "author",
    "meta.a",
    "meta.0",
    "secret",
    "password",
    "author.secret",
    "friends.title",
    "author.password",
    "shut.title",
    "created",
    "id",
    "rowid",
    "@now",
    "@request.auth.id",
    "@request.auth.hidden_title",
    "@request.auth.tags",
    "@request.auth.ruled.title",
    "@request.auth.opens.meta.a",
    "@request.body.title:isset",
    "@request.body.tags",
    "@random",
    "@rowid",
    "docs_via_author.title",
    "ruled_via_author.hidden_title",
    "@collection.shut.title",
    "@collection.users:a.password",
    "geoDistance(number, 1, meta.a, 2)",
    "strftime('%Y', created)",
    "title:lower",
    "tags:each",
    "tags:length",
    "hidden_title:lower",
    "// x\n",
];

/// Attack strings, whole and in parts.
const ATTACKS: [&str; 60] = [
    "title = 'x'; DROP TABLE docs; --",
    "title = 'x' OR 1=1 --",
    "title = 'x' OR 1=1",
    "title = 'x'/**/OR/**/1=1",
    "1=1) UNION SELECT password FROM users --",
    "id IN (SELECT id FROM users)",
    "title = (SELECT password FROM users LIMIT 1)",
    "title = \"password\"",
    "\"title\" = 'a'",
    "`title` = 'a'",
    "[title] = 'a'",
    "title\" = \"a",
    "title = 'a\\'' OR ''='",
    "title = 'a\\\\' OR password ~ '%",
    "title = 'a'' OR 1=1 --'",
    "password ~ '$argon2'",
    "author.password ~ '%'",
    "author.secret ?~ '%'",
    "friends.author.password != ''",
    "shut.title ~ 'a'",
    "ruled.title ~ 'a'",
    "users.password ~ '%'",
    "_admins.password_hash ~ '%'",
    "_collections.definition ~ '%'",
    "sqlite_master.sql ~ '%'",
    "sqlite_schema.sql != null",
    "r0.title = 'a'",
    "r1.password = 'a'",
    "json_each.value = 'a'",
    "rowid = 1",
    "oid > 0",
    "@request.headers.authorization ~ 'a'",
    "@collection.users.password ~ '%'",
    "@request.auth.password ~ ''",
    "@request.auth.password != title",
    "@request.auth.author.password ?~ '%'",
    "@request.auth.authors.password ?~ title",
    "@request.auth.authors.author.password ?~ '%'",
    "@request.auth.shut.title ?~ 'a'",
    "@request.auth.shuts.title ?~ 'a'",
    "@request.auth.ruled.hidden_title = 'a'",
    "@request.auth.hidden_shuts.title ?= 'a'",
    "@request.auth.opens.shut.title ?= title",
    "@request.auth.authors.email ?= title",
    "@request.auth = 'a'",
    "@request.auth.id.title = 'a'",
    "@request.auth.meta.password = 'a'",
    "@request.body.password != ''",
    "@request.body.hidden_title:isset = true",
    "@request.body.id:isset.a = true",
    "@request.body = ''",
    "named.hidden_title = 'a'",
    "named.number = 1",
    "ruled.hidden_shuts.title ?= 'a'",
    "title = ?1",
    "title = :a",
    "title = $a",
    "load_extension('x') = 1",
    "title = char(0)",
    "meta.a\"') = 1",
];

const ODD_CHARS: [char; 20] = [
    '\0',
    '\u{1}',
    '\t',
    '\n',
    '\u{7f}',
    '\u{85}',
    '\u{a0}',
    '\u{e9}',
    '\u{301}',
    '\u{200b}',
    '\u{202e}',
    '\u{2028}',
    '\u{2019}',
    '\u{ff07}',
    '\u{ff1d}',
    '\u{3000}',
    '\u{feff}',
    '\u{fffd}',
    '\u{1f600}',
    '\u{10ffff}',
];

/// A random input of any kind.
pub fn random_text(rng: &mut Rng, maker: &FilterMaker<'_>) -> String {
    let text = match rng.below(100) {
        0..=4 => bytes(rng),
        5..=19 => tokens(rng),
        20..=49 => {
            let mut text = valid(rng, maker);
            for _ in 0..*rng.pick(&[1, 1, 1, 2, 4]) {
                text = mutate(rng, &text);
            }
            text
        }
        50..=84 => valid(rng, maker),
        85..=89 => attack(rng, maker),
        90..=93 => number(rng),
        94..=97 => unicode(rng),
        98 => nesting(rng, maker),
        _ => long(rng, maker),
    };
    // A text of this length costs more than all others together and shows little.
    if text.len() > 20_000 {
        text.chars().take(20_000).collect()
    } else {
        text
    }
}

/// A valid or nearly valid sort.
pub fn random_sort(rng: &mut Rng, maker: &FilterMaker<'_>) -> String {
    let terms = maker.sort(rng);
    let text = filters::render_sort(rng, &terms);
    match rng.below(6) {
        0 => mutate(rng, &text),
        1 => format!("{text},{}", rng.pick(&ATTACKS)),
        2 => format!("{text},{}", rng.pick(&TOKENS)),
        3 => rng.word(&TOKENS),
        4 => vec![text; rng.below(12)].join(","),
        _ => text,
    }
}

fn valid(rng: &mut Rng, maker: &FilterMaker<'_>) -> String {
    let expr = maker.expr(rng, 2);
    filters::render(rng, &expr)
}

fn bytes(rng: &mut Rng) -> String {
    let most = if rng.one_in(200) { 10_000 } else { 40 };
    let bytes: Vec<u8> = (0..rng.below(most))
        .map(|_| rng.bits().to_le_bytes()[0])
        .collect();
    String::from_utf8_lossy(&bytes).into_owned()
}

fn tokens(rng: &mut Rng) -> String {
    let mut text = String::new();
    for _ in 0..rng.between(1, 12) {
        text += *rng.pick(&TOKENS);
        text += *rng.pick(&[" ", " ", " ", "", "\n"]);
    }
    text
}

/// Changes, duplicates, moves or removes a part of a text.
fn mutate(rng: &mut Rng, text: &str) -> String {
    let chars: Vec<char> = text.chars().collect();
    let first = rng.below(chars.len() + 1);
    let last = rng.between(first, chars.len().min(first + 8));
    let (before, part, after) = (&chars[..first], &chars[first..last], &chars[last..]);
    let part: Vec<char> = match rng.below(6) {
        0 => Vec::new(),
        1 => part.iter().chain(part).copied().collect(),
        2 => part.iter().rev().copied().collect(),
        3 => rng.pick(&TOKENS).chars().collect(),
        4 => vec![*rng.pick(&ODD_CHARS)],
        _ => chars[rng.below(chars.len() + 1)..].to_vec(),
    };
    before.iter().chain(&part).chain(after).collect()
}

fn attack(rng: &mut Rng, maker: &FilterMaker<'_>) -> String {
    let attack = rng.word(&ATTACKS);
    match rng.below(5) {
        0 => format!(
            "{} {} {attack}",
            valid(rng, maker),
            rng.pick(&["&&", "OR", ";", "--", ")"])
        ),
        1 => format!("title = '{attack}'"),
        2 => format!("title = '{}'", attack.replace('\'', "''")),
        3 => mutate(rng, &attack),
        _ => attack,
    }
}

fn number(rng: &mut Rng) -> String {
    let most = if rng.one_in(50) { 3000 } else { 30 };
    let mut digits: String = (0..rng.between(1, most))
        .map(|_| *rng.pick(&['0', '1', '9']))
        .collect();
    match rng.below(6) {
        0 => digits.insert(0, '-'),
        1 => digits.insert(rng.below(digits.len()), '.'),
        2 => digits += "e999999999999",
        3 => digits = format!("{}e-{}", &digits[..1], digits),
        4 => digits = format!("1e{}", rng.below(400)),
        _ => {}
    }
    let field = *rng.pick(&[
        "number", "title", "day", "tags", "meta.a", "done", "meta", "1",
    ]);
    match rng.below(4) {
        0 => format!("{field} = '{digits}'"),
        1 => format!("{field} IN (1, {digits})"),
        2 => format!("meta.{digits} ~ {digits}"),
        _ => format!("{field} >= {digits}"),
    }
}

fn unicode(rng: &mut Rng) -> String {
    let mut text: String = (0..rng.below(12)).map(|_| *rng.pick(&ODD_CHARS)).collect();
    if let Some(char) = char::from_u32(u32::try_from(rng.below(0x11_0000)).unwrap()) {
        text.push(char);
    }
    match rng.below(5) {
        0 => text,
        1 => format!("{text} = 1"),
        2 => format!("meta.{text} = 1"),
        3 => format!("title{text}~{text}'{text}'"),
        _ => format!("title ~ '{text}'"),
    }
}

fn nesting(rng: &mut Rng, maker: &FilterMaker<'_>) -> String {
    let depth = *rng.pick(&[1, 5, 30, 31, 32, 33, 100, 3000, 8000]);
    let (open, close) = *rng.pick(&[("(", ")"), ("!", ""), ("NOT ", ""), ("!(", ")"), ("(", "")]);
    let inner = valid(rng, maker);
    match rng.below(3) {
        0 => format!("{}{inner}", "(title=1||".repeat(depth)),
        _ => format!("{}{inner}{}", open.repeat(depth), close.repeat(depth)),
    }
}

fn long(rng: &mut Rng, maker: &FilterMaker<'_>) -> String {
    let count = *rng.pick(&[2, 10, 50, 198, 199, 200, 201, 400]);
    match rng.below(6) {
        0 => vec!["title=1"; count].join(" && "),
        1 => vec![valid(rng, maker); count.min(20)].join(" OR "),
        2 => format!("tags IN ({})", vec!["'a'"; count].join(",")),
        3 => {
            let names = vec![rng.word(&["friends", "author", "friends.author"]); rng.between(1, 9)];
            let path = format!("{}.title", names.join("."));
            vec![format!("{path} ?= 'a'"); *rng.pick(&[1, 3, 12, 120])].join(" || ")
        }
        4 => format!("title ~ '{}'", "%a".repeat(count * 9)),
        _ => format!("title = '{}'", "'' ".repeat(count * 9)),
    }
}

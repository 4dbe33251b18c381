//! Generates random filters, rules and sorts, most of them valid, and their text.

use super::callers::{Account, Caller};
use super::compare::{OperandType, Scalar};
use super::literals::{number_literal, number_text, random_literal};
use super::model::EvalContext;
use super::request::ALWAYS;
use super::world;
use super::world::World;
use crate::model::collections::FieldKind;
use crate::model::filter::{Comparison, Expr, Literal, Op, Operand, SortTerm};
use crate::tests::rng::Rng;

const OPS: [Op; 12] = [
    Op::Equal,
    Op::Equal,
    Op::Equal,
    Op::NotEqual,
    Op::NotEqual,
    Op::Greater,
    Op::GreaterOrEqual,
    Op::Less,
    Op::LessOrEqual,
    Op::Like,
    Op::Like,
    Op::NotLike,
];

/// Generates conditions on the records of one table.
#[derive(Clone, Copy)]
pub struct FilterMaker<'a> {
    pub world: &'a World,
    pub table: usize,
    pub context: EvalContext<'a>,
    /// Allows `created`, `updated` and the current time.
    pub times: bool,
}

impl<'a> FilterMaker<'a> {
    /// Generates rules, whose conditions any caller can meet.
    pub fn of_rules(world: &'a World, table: usize, times: bool) -> FilterMaker<'a> {
        let context = EvalContext {
            caller: &Caller::Anonymous,
            is_rule: true,
            sent: None,
        };
        FilterMaker {
            world,
            table,
            context,
            times,
        }
    }

    /// A valid condition.
    pub fn valid(&self, rng: &mut Rng) -> Expr {
        loop {
            let expr = self.expr(rng, 3);
            if !self.world.refuses(&expr, self.table, self.context) && self.world.is_sound(&expr) {
                return expr;
            }
        }
    }

    /// A condition, sometimes an invalid one.
    pub fn expr(&self, rng: &mut Rng, depth: usize) -> Expr {
        if depth == 0 || rng.percent(45) {
            return self.comparison(rng);
        }
        let several = |rng: &mut Rng| -> Vec<Expr> {
            (0..rng.between(2, 3))
                .map(|_| self.expr(rng, depth - 1))
                .collect()
        };
        match rng.below(5) {
            0 => Expr::Not(Box::new(self.expr(rng, depth - 1))),
            1 | 2 => Expr::And(several(rng)),
            _ => Expr::Or(several(rng)),
        }
    }

    fn comparison(&self, rng: &mut Rng) -> Expr {
        if rng.percent(if self.context.is_rule { 40 } else { 12 }) {
            return self.of_request(rng);
        }
        if rng.one_in(20) && (self.context.is_rule || *self.context.caller == Caller::Admin) {
            return self.of_collection(rng);
        }
        let path = self.path(rng, 2);
        let place = self.world.class_of(self.table, &path, self.context);
        let class = place.map_or(OperandType::Text, |(class, _)| class);
        let (op, any) = (*rng.pick(&OPS), rng.one_in(3));
        let is_like = matches!(op, Op::Like | Op::NotLike);
        if rng.one_in(10) {
            let list = (0..rng.between(1, 4))
                .map(|_| self.literal(rng, class, &path))
                .collect();
            let list = Expr::In(Operand::Path(path), list);
            return if rng.one_in(3) {
                Expr::Not(Box::new(list))
            } else {
                list
            };
        }
        let right = match rng.below(30) {
            0..=2 => Operand::Path(self.path(rng, 2)),
            4 if self.times && !is_like => Operand::Path(vec![rng.word(&["@now", "@yesterday"])]),
            5 | 6 => Operand::Literal(Literal::Null),
            _ if is_like => Operand::Literal(self.pattern(rng, class, &path)),
            _ => Operand::Literal(self.literal(rng, class, &path)),
        };
        let left = match rng.below(40) {
            0 => Operand::Literal(self.literal(rng, OperandType::Text, &path)),
            _ => Operand::Path(path),
        };
        let is_turned = rng.one_in(12);
        let (left, right) = if is_turned {
            (right, left)
        } else {
            (left, right)
        };
        Expr::Compare(Comparison {
            left,
            op,
            any,
            right,
        })
    }

    /// A comparison of two records that no relation joins, as in a rule of membership.
    fn of_collection(&self, rng: &mut Rng) -> Expr {
        let table = rng.below(self.world.tables.len());
        let maker = FilterMaker { table, ..*self };
        let collection = &self.world.tables[table].collection.name;
        let alias = rng.word(&["", "", ":x"]);
        let compare = |rng: &mut Rng| {
            let mut left = vec!["@collection".to_owned(), format!("{collection}{alias}")];
            let path = maker.path(rng, 1);
            let class = self.world.class_of(table, &path, self.context);
            let class = class.map_or(OperandType::Text, |(class, _)| class);
            let literal = maker.literal(rng, class, &path);
            left.extend(path);
            let right = match rng.below(3) {
                0 => Operand::Path(self.path(rng, 1)),
                1 => Operand::Path(vec!["@request".into(), "auth".into(), "id".into()]),
                _ => Operand::Literal(literal),
            };
            Expr::Compare(Comparison {
                left: Operand::Path(left),
                op: *rng.pick(&[Op::Equal, Op::Equal, Op::NotEqual, Op::Greater]),
                any: rng.percent(80),
                right,
            })
        };
        match rng.one_in(3) {
            true => compare(rng),
            false => Expr::And(vec![compare(rng), compare(rng)]),
        }
    }

    /// A comparison with a value of the request.
    fn of_request(&self, rng: &mut Rng) -> Expr {
        let path = self.path(rng, 2);
        let mut left = Operand::Path(self.request_path(rng, &path));
        let (mut op, any) = (*rng.pick(&OPS), rng.one_in(2));
        let mut right = match rng.below(20) {
            0 | 1 => Operand::Path(self.request_path(rng, &path)),
            2 => Operand::Literal(Literal::Null),
            3 => Operand::Literal(Literal::Text(String::new())),
            4..=6 => Operand::Literal(self.request_literal(rng)),
            7 => {
                let list = (0..3).map(|_| self.request_literal(rng)).collect();
                return Expr::In(left, list);
            }
            _ => Operand::Path(path),
        };
        if matches!(&left, Operand::Path(path) if path[path.len() - 1].ends_with(":isset")) {
            right = Operand::Literal(Literal::Bool(rng.one_in(2)));
            op = *rng.pick(&[Op::Equal, Op::NotEqual]);
        }
        if rng.percent(60) {
            (left, right) = (right, left);
        }
        Expr::Compare(Comparison {
            left,
            op,
            any,
            right,
        })
    }

    /// A path into the account or the body; most often a valid one.
    fn request_path(&self, rng: &mut Rng, other: &[String]) -> Vec<String> {
        let path = |part: &str, names: Vec<String>| {
            let mut path = vec!["@request".to_owned(), part.to_owned()];
            path.extend(names);
            path
        };
        if rng.one_in(if self.context.is_rule { 3 } else { 12 }) {
            let collection = &self.world.tables[self.table].collection;
            let fields = collection.fields.iter().filter(|field| !field.is_secret());
            let mut names: Vec<&str> = fields.map(|field| field.name.as_str()).collect();
            names.push("id");
            let mut name = rng.word(&names);
            if collection.field(&other[0]).is_some() && rng.one_in(2) {
                name.clone_from(&other[0]);
            }
            if rng.one_in(5) {
                name += ":isset";
            }
            let below = match collection
                .field(&name)
                .map(|field| self.world.target(field))
            {
                Some(Some(table)) if rng.percent(60) => FilterMaker { table, ..*self }.path(rng, 1),
                _ if rng.one_in(30) => vec![rng.word(&world::JSON_KEYS)],
                _ => Vec::new(),
            };
            return path("body", [vec![name], below].concat());
        }
        if rng.percent(30) {
            return path("auth", vec!["id".to_owned()]);
        }
        let table = match self.context.caller {
            Caller::User(account) if !rng.one_in(15) => account.table,
            _ => *rng.pick(&self.world.accounts()),
        };
        if rng.one_in(if *self.context.caller == Caller::Admin {
            2
        } else {
            10
        }) {
            let names: Vec<&str> = if self.times {
                &ALWAYS[..]
            } else {
                &["id", "collectionName"]
            }
            .iter()
            .copied()
            .chain(["name", "email", "password"])
            .collect();
            return path("auth", vec![rng.word(&names)]);
        }
        let maker = FilterMaker { table, ..*self };
        let mut names = maker.path(rng, 2);
        // The account is a value, whose modifiers are tested elsewhere.
        if let [name] = names.as_mut_slice() {
            name.truncate(name.find(':').unwrap_or(name.len()));
        }
        path("auth", names)
    }

    /// A value that an account may have.
    fn request_literal(&self, rng: &mut Rng) -> Literal {
        if rng.one_in(6) {
            return Literal::Text(rng.word(&["_superusers", "users", "members", "adm-1"]));
        }
        let accounts = match self.context.caller {
            Caller::User(account) => vec![account.clone()],
            _ => Vec::new(),
        };
        let user = match accounts.first() {
            Some(account) => Some(Caller::User(account.clone())),
            None => Caller::random_user(rng, self.world),
        };
        if let Some(Caller::User(Account { table, record })) = user
            && rng.percent(80)
        {
            let value = rng.pick(&record.values);
            let collection = &self.world.tables[table].collection;
            return match value {
                world::Value::Number(number) => number_literal(*number),
                world::Value::Flag(flag) => Literal::Bool(*flag),
                world::Value::Text(text) => Literal::Text(text.clone()),
                world::Value::List(list) => Literal::Text(rng.pick(list).clone()),
                _ if rng.one_in(2) => Literal::Text(record.id.clone()),
                _ => Literal::Text(collection.name.clone()),
            };
        }
        random_literal(rng, OperandType::Text)
    }

    /// A path with at most this many relations.
    pub fn path(&self, rng: &mut Rng, relations_max: usize) -> Vec<String> {
        loop {
            let mut path = Vec::new();
            self.walk(rng, relations_max, &mut path);
            let is_seen = self
                .world
                .class_of(self.table, &path, self.context)
                .is_some();
            let has_time = path
                .last()
                .is_some_and(|name| name == "created" || name == "updated");
            if (is_seen || rng.one_in(30)) && (self.times || !has_time) {
                return path;
            }
        }
    }

    fn walk(&self, rng: &mut Rng, relations_max: usize, path: &mut Vec<String>) {
        let mut table = self.table;
        for step in 0..=relations_max {
            let collection = &self.world.tables[table].collection;
            if collection.fields.is_empty() || rng.one_in(8) {
                path.push(rng.word(&["id", "created", "updated", "id"]));
                return;
            }
            if step < relations_max
                && rng.percent(12)
                && let Some((name, target)) = self.world.random_back_relation(rng, table)
            {
                path.push(name);
                table = target;
                continue;
            }
            let relations: Vec<usize> = (0..collection.fields.len())
                .filter(|at| collection.fields[*at].relation().is_some())
                .collect();
            let wants_relation = !relations.is_empty() && rng.percent(40);
            let at = match wants_relation {
                true => *rng.pick(&relations),
                false => rng.below(collection.fields.len()),
            };
            let field = &collection.fields[at];
            path.push(field.name.clone());
            match self.world.target(field) {
                Some(target) if step < relations_max && rng.percent(70) => table = target,
                Some(_) => {
                    add_modifier(rng, path);
                    return;
                }
                None => {
                    if matches!(field.kind, FieldKind::Json { .. }) && rng.percent(75) {
                        path.extend((0..rng.between(1, 3)).map(|_| rng.word(&world::JSON_KEYS)));
                    } else {
                        add_modifier(rng, path);
                    }
                    return;
                }
            }
        }
    }

    /// Often a value that a record has at the end of the path.
    fn sample(&self, rng: &mut Rng, path: &[String]) -> Option<Scalar> {
        self.world.class_of(self.table, path, self.context)?;
        let records = &self.world.tables[self.table].records;
        if records.is_empty() || rng.one_in(3) {
            return None;
        }
        let values = self
            .world
            .values(self.table, Some(rng.pick(records)), path, self.context);
        Some(rng.pick(&values).clone())
    }

    fn literal(&self, rng: &mut Rng, class: OperandType, path: &[String]) -> Literal {
        if rng.one_in(15) {
            return Literal::Text(String::new());
        }
        if rng.one_in(50) {
            return Literal::Bool(rng.one_in(2));
        }
        match self.sample(rng, path) {
            Some(Scalar::Number(number)) if rng.one_in(4) => Literal::Text(number_text(number)),
            Some(Scalar::Number(number)) => number_literal(number),
            Some(Scalar::Text(text)) => Literal::Text(text),
            Some(Scalar::Unset | Scalar::Missing | Scalar::Hidden | Scalar::List(_)) | None => {
                random_literal(rng, class)
            }
        }
    }

    /// A pattern made from a part of a value.
    fn pattern(&self, rng: &mut Rng, class: OperandType, path: &[String]) -> Literal {
        let literal = self.literal(rng, class, path);
        let Literal::Text(text) = literal else {
            return literal;
        };
        let chars: Vec<char> = text.chars().collect();
        let first = rng.below(chars.len() + 1);
        let last = rng.between(first, chars.len());
        let mut text: String = chars[first..last].iter().collect();
        if rng.one_in(4) {
            text = text.to_uppercase();
        }
        Literal::Text(match rng.below(8) {
            6 => text.replace('%', "\\%").replace('_', "\\_"),
            7 => {
                let mark = rng.word(&["\\%", "\\_", "\\", "\\\\", "\\\\%", "\\a"]);
                text.replace(['%', '_', '\\', 'a', 'b', '0'], &mark)
            }
            0 => format!("%{text}"),
            1 => format!("{text}%"),
            2 => format!("%{text}%"),
            3 => text.replace(['a', 'b', '0'], "%"),
            _ => text,
        })
    }

    pub fn sort(&self, rng: &mut Rng) -> Vec<SortTerm> {
        let term = |rng: &mut Rng| {
            let mut path = self.path(rng, 2);
            if self
                .world
                .class_of(self.table, &path, self.context)
                .is_some_and(|(_, many)| many)
                && !rng.one_in(10)
            {
                path = vec!["id".to_owned()];
            }
            if rng.one_in(12) {
                path = vec!["@rowid".to_owned()];
            }
            if rng.one_in(60) {
                path = self.request_path(rng, &path);
            }
            SortTerm {
                path,
                descending: rng.one_in(2),
            }
        };
        (0..rng.between(1, 3)).map(|_| term(rng)).collect()
    }
}

/// Sometimes adds a modifier to the last name, often one that fits.
fn add_modifier(rng: &mut Rng, path: &mut [String]) {
    if let Some(name) = path.last_mut()
        && rng.percent(25)
    {
        *name += &rng.word(&[":each", ":length", ":lower", ":each", ":length", ":isset"]);
    }
}

/// The notation of a text: which of the equal forms, and how much space.
struct Style<'a> {
    rng: Option<&'a mut Rng>,
}

/// The text of a condition in a fixed notation.
pub fn render_plainly(expr: &Expr) -> String {
    Style { rng: None }.expr(expr)
}

/// The text of a condition in a random notation.
pub fn render(rng: &mut Rng, expr: &Expr) -> String {
    Style { rng: Some(rng) }.expr(expr)
}

pub fn render_sort(rng: &mut Rng, terms: &[SortTerm]) -> String {
    let mut style = Style { rng: Some(rng) };
    let term = |term: &SortTerm| {
        let sign = if term.descending {
            "-"
        } else {
            style.one_of(&["", "", "+"])
        };
        format!("{sign}{}", term.path.join("."))
    };
    let terms: Vec<String> = terms.iter().map(term).collect();
    terms.join(style.one_of(&[",", ", ", ",,"]))
}

impl Style<'_> {
    fn one_of<'a>(&mut self, forms: &[&'a str]) -> &'a str {
        match &mut self.rng {
            Some(rng) => forms[rng.below(forms.len())],
            None => forms[0],
        }
    }

    fn expr(&mut self, expr: &Expr) -> String {
        match expr {
            Expr::And(list) => self.list(list, &[" && ", " AND ", "&&", " and "]),
            Expr::Or(list) => self.list(list, &[" || ", " OR ", "||", "\n or\t"]),
            Expr::Not(inner) => match inner.as_ref() {
                Expr::In(left, list) if self.one_of(&["", "x"]).is_empty() => {
                    let not_in = self.one_of(&[" NOT IN (", " not  in("]);
                    self.values(left, not_in, list)
                }
                inner => {
                    let not = self.one_of(&["NOT ", "!", "not ", "! "]);
                    format!("{not}{}", self.part(inner))
                }
            },
            Expr::In(left, list) => {
                let sign = self.one_of(&[" IN (", " in("]);
                self.values(left, sign, list)
            }
            Expr::Compare(comparison) => self.comparison(comparison),
        }
    }

    fn list(&mut self, list: &[Expr], signs: &[&str]) -> String {
        let parts: Vec<String> = list.iter().map(|expr| self.part(expr)).collect();
        parts.join(self.one_of(signs))
    }

    /// Adds parentheses where they matter.
    fn part(&mut self, expr: &Expr) -> String {
        let text = self.expr(expr);
        let is_list = matches!(expr, Expr::And(_) | Expr::Or(_));
        if is_list || self.one_of(&["", "", "("]) == "(" {
            format!("({text})")
        } else {
            text
        }
    }

    fn comparison(&mut self, comparison: &Comparison) -> String {
        let Comparison {
            left,
            op,
            any,
            right,
        } = comparison;
        let is_null = *right == Operand::Literal(Literal::Null) && !any;
        let left = self.operand(left);
        if is_null && matches!(op, Op::Equal | Op::NotEqual) && self.one_of(&["", "x"]).is_empty() {
            let is = if *op == Op::Equal {
                " IS NULL"
            } else {
                " is not null"
            };
            return format!("{left}{is}");
        }
        let sign = match op {
            Op::Equal => self.one_of(&["=", "=="]),
            Op::NotEqual => self.one_of(&["!=", "<>"]),
            Op::Greater => ">",
            Op::GreaterOrEqual => ">=",
            Op::Less => "<",
            Op::LessOrEqual => "<=",
            Op::Like => "~",
            Op::NotLike => "!~",
        };
        let (space, any) = (self.one_of(&[" ", ""]), if *any { "?" } else { "" });
        format!("{left}{space}{any}{sign}{space}{}", self.operand(right))
    }

    fn values(&mut self, left: &Operand, sign: &str, list: &[Literal]) -> String {
        let list: Vec<String> = list.iter().map(|literal| self.literal(literal)).collect();
        let comma = self.one_of(&[", ", ","]);
        format!("{}{sign}{})", self.operand(left), list.join(comma))
    }

    fn operand(&mut self, operand: &Operand) -> String {
        match operand {
            Operand::Path(path) => path.join("."),
            Operand::Literal(literal) => self.literal(literal),
            Operand::Call(function, list) => {
                let list: Vec<String> = list.iter().map(|it| self.operand(it)).collect();
                format!("{}({})", function.name(), list.join(", "))
            }
        }
    }

    fn literal(&mut self, literal: &Literal) -> String {
        match literal {
            Literal::Null => self.one_of(&["null", "NULL"]).to_owned(),
            Literal::Bool(true) => self.one_of(&["true", "TRUE"]).to_owned(),
            Literal::Bool(false) => self.one_of(&["false", "False"]).to_owned(),
            Literal::Integer(integer) => integer.to_string(),
            Literal::Real(real) => format!("{real:?}"),
            Literal::Text(text) => {
                let quote = self.one_of(&["'", "\""]);
                let escaped = self.one_of(&["\\", ""]);
                let twice = if escaped.is_empty() {
                    quote.repeat(2)
                } else {
                    format!("\\{quote}")
                };
                format!(
                    "{quote}{}{quote}",
                    text.replace('\\', "\\\\").replace(quote, &twice)
                )
            }
        }
    }
}

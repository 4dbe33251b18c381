//! The syntax tree of filters, rules and sorts.

/// The first name of paths to the caller, the body and the other parts of the request.
pub const REQUEST: &str = "@request";
/// The first name of paths to any record of a collection.
pub const COLLECTION: &str = "@collection";

/// A condition.
#[derive(Clone, Debug, PartialEq)]
pub enum Expr {
    And(Vec<Expr>),
    Or(Vec<Expr>),
    Not(Box<Expr>),
    Compare(Comparison),
    In(Operand, Vec<Literal>),
}

impl Expr {
    /// A condition that is always false.
    pub fn never() -> Expr {
        let side = |value| Operand::Literal(Literal::Integer(value));
        Expr::Compare(Comparison {
            left: side(1),
            op: Op::Equal,
            any: false,
            right: side(0),
        })
    }

    /// True if `is_it` holds for one of its paths.
    pub fn any_path(&self, is_it: &dyn Fn(&[String]) -> bool) -> bool {
        let holds = |operand: &Operand| operand.any_path(is_it);
        match self {
            Expr::And(list) | Expr::Or(list) => list.iter().any(|it| it.any_path(is_it)),
            Expr::Not(inner) => inner.any_path(is_it),
            Expr::Compare(comparison) => holds(&comparison.left) || holds(&comparison.right),
            Expr::In(operand, _) => holds(operand),
        }
    }

    /// True if it depends on the request: on its caller, its body or another part of it.
    pub fn depends_on_request(&self) -> bool {
        self.any_path(&|path| path.first().is_some_and(|name| name == REQUEST))
    }

    /// True if it depends on the time, through a macro such as `@now`.
    pub fn depends_on_time(&self) -> bool {
        let is_macro =
            |name: &String| name.starts_with('@') && name != REQUEST && name != COLLECTION;
        self.any_path(&|path| path.first().is_some_and(is_macro))
    }

    /// True if it searches in text, with `~` or `!~`.
    pub fn searches(&self) -> bool {
        match self {
            Expr::And(list) | Expr::Or(list) => list.iter().any(Expr::searches),
            Expr::Not(inner) => inner.searches(),
            Expr::Compare(comparison) => comparison.op.is_pattern(),
            Expr::In(..) => false,
        }
    }
}

/// `left op right`; with `any`, one of several values is enough. A comparison with a function is
/// always of this kind.
#[derive(Clone, Debug, PartialEq)]
pub struct Comparison {
    pub left: Operand,
    pub op: Op,
    pub any: bool,
    pub right: Operand,
}

/// A comparison operator.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Op {
    Equal,
    NotEqual,
    Greater,
    GreaterOrEqual,
    Less,
    LessOrEqual,
    /// Contains, ignoring the case of ASCII letters; `%` matches any sequence.
    Like,
    NotLike,
}

impl Op {
    /// True for `<`, `<=`, `>` and `>=`.
    pub fn is_ordering(self) -> bool {
        match self {
            Op::Greater | Op::GreaterOrEqual | Op::Less | Op::LessOrEqual => true,
            Op::Equal | Op::NotEqual | Op::Like | Op::NotLike => false,
        }
    }

    /// True for `~` and `!~`, whose right side is a pattern.
    pub fn is_pattern(self) -> bool {
        match self {
            Op::Like | Op::NotLike => true,
            Op::Equal
            | Op::NotEqual
            | Op::Greater
            | Op::GreaterOrEqual
            | Op::Less
            | Op::LessOrEqual => false,
        }
    }

    /// The first form that filters accept.
    pub fn symbol(self) -> &'static str {
        match self {
            Op::Equal => "=",
            Op::NotEqual => "!=",
            Op::Greater => ">",
            Op::GreaterOrEqual => ">=",
            Op::Less => "<",
            Op::LessOrEqual => "<=",
            Op::Like => "~",
            Op::NotLike => "!~",
        }
    }

    /// The operator for swapped sides; not for `~`.
    pub fn flipped(self) -> Op {
        match self {
            Op::Greater => Op::Less,
            Op::GreaterOrEqual => Op::LessOrEqual,
            Op::Less => Op::Greater,
            Op::LessOrEqual => Op::GreaterOrEqual,
            Op::Equal | Op::NotEqual | Op::Like | Op::NotLike => self,
        }
    }
}

/// One side of a comparison.
#[derive(Clone, Debug, PartialEq)]
pub enum Operand {
    Literal(Literal),
    /// A path to a field, possibly of a related record: `author.name`. The first name may begin
    /// with `@`, and a name may end with a modifier: `tags:each`.
    Path(Vec<String>),
    /// A function of paths and literals.
    Call(Function, Vec<Operand>),
}

impl Operand {
    fn any_path(&self, is_it: &dyn Fn(&[String]) -> bool) -> bool {
        match self {
            Operand::Literal(_) => false,
            Operand::Path(path) => is_it(path),
            Operand::Call(_, list) => list.iter().any(|it| it.any_path(is_it)),
        }
    }

    /// Its paths, those in a call included.
    pub fn paths(&self) -> Vec<&[String]> {
        match self {
            Operand::Literal(_) => Vec::new(),
            Operand::Path(path) => vec![path],
            Operand::Call(_, list) => list.iter().flat_map(Operand::paths).collect(),
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Function {
    /// The distance of two points in kilometres, from longitude and latitude of each.
    GeoDistance,
    /// A formatted time, as the function of SQLite with this name.
    Strftime,
}

impl Function {
    pub const ALL: [Function; 2] = [Function::GeoDistance, Function::Strftime];

    pub fn name(self) -> &'static str {
        match self {
            Function::GeoDistance => "geoDistance",
            Function::Strftime => "strftime",
        }
    }

    /// The smallest and the largest number of its arguments.
    pub fn arity(self) -> (usize, usize) {
        match self {
            Function::GeoDistance => (4, 4),
            Function::Strftime => (1, 10),
        }
    }
}

#[derive(Clone, Debug, PartialEq)]
pub enum Literal {
    Null,
    Bool(bool),
    Integer(i64),
    Real(f64),
    Text(String),
}

/// One term of a sort.
#[derive(Clone, Debug, PartialEq)]
pub struct SortTerm {
    pub path: Vec<String>,
    pub descending: bool,
}

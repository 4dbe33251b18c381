//! Which file of `src` uses which: every path in the code, in imports and elsewhere, followed through
//! re-exports to the file that defines what it names.

use std::collections::{BTreeMap, BTreeSet};

/// The segments of a module's path, without the leading `crate`; the root has none.
pub type Module = Vec<String>;

/// The modules that each module uses. Tests are left out.
pub struct Graph {
    pub uses: BTreeMap<Module, BTreeSet<Module>>,
}

#[derive(Default)]
struct File {
    code: String,
    /// The names that `use` and `pub use` bring in, and the paths that they stand for.
    names: BTreeMap<String, Vec<String>>,
}

impl Graph {
    /// `sources`: paths that start with `src/`, and texts.
    pub fn new(sources: &[(String, String)]) -> Graph {
        let files: BTreeMap<Module, File> = sources
            .iter()
            .map(|(path, text)| (module_of(path), File::new(text)))
            .filter(|(module, _)| !is_test(module))
            .collect();
        let uses = files.iter().map(|(module, file)| {
            let used = file
                .paths()
                .filter_map(|path| resolve(&files, module, &path, 0));
            let used = used.filter(|other| other != module);
            (module.clone(), used.collect())
        });
        Graph {
            uses: uses.collect(),
        }
    }

    /// The groups of modules that use each other, directly or through others.
    pub fn circles(&self) -> Vec<Vec<&Module>> {
        let reach: BTreeMap<&Module, BTreeSet<&Module>> =
            self.uses.keys().map(|it| (it, self.reach(it))).collect();
        let mut seen: BTreeSet<&Module> = BTreeSet::new();
        let mut circles = Vec::new();
        for module in self.uses.keys() {
            if !reach[module].contains(module) || seen.contains(module) {
                continue;
            }
            let circle: Vec<&Module> = reach[module]
                .iter()
                .copied()
                .filter(|other| reach.get(other).is_some_and(|it| it.contains(module)))
                .collect();
            seen.extend(&circle);
            circles.push(circle);
        }
        circles
    }

    fn reach<'a>(&'a self, from: &Module) -> BTreeSet<&'a Module> {
        let mut found = BTreeSet::new();
        let mut open: Vec<&Module> = self.uses[from].iter().collect();
        while let Some(module) = open.pop() {
            if found.insert(module) {
                open.extend(self.uses.get(module).into_iter().flatten());
            }
        }
        found
    }
}

fn module_of(path: &str) -> Module {
    let path = path.trim_start_matches("src/").trim_end_matches(".rs");
    let mut module: Module = path.split('/').map(str::to_owned).collect();
    if module
        .last()
        .is_some_and(|last| last == "mod" || last == "main")
    {
        module.pop();
    }
    module
}

fn is_test(module: &Module) -> bool {
    module.iter().any(|it| it.ends_with("tests"))
}

impl File {
    fn new(text: &str) -> File {
        let code = without_literals(super::without_tests(text));
        let mut file = File::default();
        let mut rest = code.as_str();
        while let Some((before, after)) = split_use(rest) {
            let (tree, after) = after.split_once(';').unwrap();
            file.code.push_str(before);
            file.code.push('\n');
            let mut found = Vec::new();
            expand(&[], tree, &mut found);
            file.names.extend(found);
            rest = after;
        }
        file.code.push_str(rest);
        file
    }

    /// All paths of more than one segment, with what stands for their first one put in its place.
    fn paths(&self) -> impl Iterator<Item = Vec<String>> {
        let words = self
            .code
            .split(|it: char| !(it.is_alphanumeric() || it == '_' || it == ':'));
        let inline = words.filter(|word| word.contains("::")).map(|word| {
            let path: Vec<String> = word
                .split("::")
                .filter(|it| !it.is_empty())
                .map(str::to_owned)
                .collect();
            match path.first().and_then(|first| self.names.get(first)) {
                Some(known) => [known, &path[1..]].concat(),
                None => path,
            }
        });
        self.names.values().cloned().chain(inline)
    }
}

/// The code before the next `use`, and what follows the word.
fn split_use(code: &str) -> Option<(&str, &str)> {
    code.match_indices("use ").find_map(|(at, word)| {
        let line = code[..at]
            .rsplit('\n')
            .next()
            .unwrap_or_default()
            .trim_start();
        (line.is_empty() || line.starts_with("pub"))
            .then(|| (&code[..at], &code[at + word.len()..]))
    })
}

/// Code without comments and without what stands in quotes.
fn without_literals(text: &str) -> String {
    let mut code = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(first) = rest.chars().next() {
        let hashes = rest[1..].chars().take_while(|it| *it == '#').count();
        let is_raw = first == 'r' && rest[1 + hashes..].starts_with('"');
        let is_raw = is_raw && !code.ends_with(|it: char| it.is_alphanumeric() || it == '_');
        let length = if rest.starts_with("//") {
            rest.find('\n').unwrap_or(rest.len())
        } else if is_raw {
            let end = format!("\"{}", "#".repeat(hashes));
            2 + hashes + rest[2 + hashes..].find(&end).unwrap() + end.len()
        } else if first == '"' {
            let mut escaped = false;
            let end = rest[1..].find(|it| {
                let is_end = it == '"' && !escaped;
                escaped = it == '\\' && !escaped;
                is_end
            });
            end.unwrap() + 2
        } else if rest.starts_with("'\\") || rest.chars().nth(2) == Some('\'') && first == '\'' {
            // From the second character on: the first may be an escaped quote.
            rest[3.min(rest.len())..].find('\'').map_or(3, |at| at + 4)
                * usize::from(rest.starts_with("'\\"))
                + 3 * usize::from(!rest.starts_with("'\\"))
        } else {
            code.push(first);
            rest = &rest[first.len_utf8()..];
            continue;
        };
        rest = &rest[length..];
    }
    code
}

/// The names that a tree of imports brings in, with their paths.
fn expand(prefix: &[String], tree: &str, found: &mut Vec<(String, Vec<String>)>) {
    let tree = tree.trim();
    if let Some(list) = tree.strip_prefix('{').and_then(|it| it.strip_suffix('}')) {
        for part in split_list(list) {
            expand(prefix, part, found);
        }
    } else if let Some((first, rest)) = tree.split_once("::") {
        expand(&[prefix, &[first.trim().to_owned()]].concat(), rest, found);
    } else if !tree.is_empty() {
        let (name, alias) = tree.split_once(" as ").unwrap_or((tree, tree));
        let mut path = prefix.to_vec();
        if name != "self" {
            path.push(name.trim().to_owned());
        }
        let alias = if alias == "self" {
            path.last().unwrap()
        } else {
            alias.trim()
        };
        found.push((alias.to_owned(), path.clone()));
    }
}

/// The parts between the commas that are in no braces.
fn split_list(list: &str) -> Vec<&str> {
    let mut depth = 0;
    list.split(|it| {
        depth += i32::from(it == '{') - i32::from(it == '}');
        it == ',' && depth == 0
    })
    .collect()
}

/// The module that defines what `path` names, seen from `module`; none if it is outside `src`.
fn resolve(
    files: &BTreeMap<Module, File>,
    module: &Module,
    path: &[String],
    depth: usize,
) -> Option<Module> {
    let path = absolute(files, module, path)?;
    let mut current = Module::new();
    for (at, segment) in path.iter().enumerate() {
        let next = [current.as_slice(), std::slice::from_ref(segment)].concat();
        if files.contains_key(&next) {
            current = next;
            continue;
        }
        let known = files[&current].names.get(segment).filter(|_| depth < 8);
        let further = known.and_then(|known| {
            let path = [known, &path[at + 1..]].concat();
            resolve(files, &current, &path, depth + 1)
        });
        return Some(further.unwrap_or(current));
    }
    Some(current)
}

fn absolute(files: &BTreeMap<Module, File>, module: &Module, path: &[String]) -> Option<Module> {
    let (first, rest) = path.split_first()?;
    match first.as_str() {
        "crate" => Some(rest.to_vec()),
        "self" => Some([module, rest].concat()),
        "super" => {
            let ups = path.iter().take_while(|it| *it == "super").count();
            let base = module.len().checked_sub(ups)?;
            Some([&module[..base], &path[ups..]].concat())
        }
        _ => {
            let child = [module, &path[..1]].concat();
            files.contains_key(&child).then(|| [module, path].concat())
        }
    }
}

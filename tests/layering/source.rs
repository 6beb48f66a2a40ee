//! A reader of Rust sources that knows just enough to find imports: words, `use` trees, functions and
//! what is compiled for tests only.

use std::collections::BTreeMap;
use std::ops::Range;

/// A word or a sign of a source file.
pub struct Token {
    /// The word.
    pub text: String,
    /// The number of its line.
    pub line: usize,
}

/// Whether a token is a name, a keyword included.
pub fn is_name(text: &str) -> bool {
    text.starts_with(|first: char| first.is_alphabetic() || first == '_')
}

/// The words, `::` and other signs of a source, without comments, literals and lifetimes.
pub fn tokens(text: &str) -> Vec<Token> {
    let chars: Vec<char> = text.chars().collect();
    let get = |at: usize| chars.get(at).copied().unwrap_or('\0');
    let find = |from: usize, end: &str| {
        let end: Vec<_> = end.chars().collect();
        (from..chars.len()).find(|at| chars[*at..].starts_with(&end)).unwrap_or(chars.len())
    };
    let (mut tokens, mut at, mut line) = (Vec::new(), 0, 1);
    while at < chars.len() {
        let start = at;
        let mut push = |text: String| tokens.push(Token { text, line });
        at = match (get(at), get(at + 1)) {
            ('/', '/') => find(at, "\n"),
            ('/', '*') => find(at, "*/") + 2,
            ('"', _) => end_of_string(&chars, at),
            ('\'', '\\') => find(at + 3, "'") + 1,
            ('\'', _) if get(at + 2) == '\'' => at + 3,
            ('\'', _) => {
                at + 1
                    + chars[at + 1..]
                        .iter()
                        .take_while(|c| c.is_alphanumeric() || **c == '_')
                        .count()
            }
            (':', ':') => {
                push("::".into());
                at + 2
            }
            (first, _) if first.is_alphanumeric() || first == '_' => {
                let length = chars[at..].iter().take_while(|c| c.is_alphanumeric() || **c == '_');
                let end = at + length.count();
                let name: String = chars[at..end].iter().collect();
                let hashes =
                    chars[end.min(chars.len())..].iter().take_while(|c| **c == '#').count();
                if name.ends_with('r') && name.len() <= 2 && get(end + hashes) == '"' {
                    find(end + hashes + 1, &format!("\"{}", "#".repeat(hashes))) + 1 + hashes
                } else {
                    push(name);
                    end
                }
            }
            (other, _) => {
                if !other.is_whitespace() {
                    push(other.into());
                }
                at + 1
            }
        };
        at = at.min(chars.len());
        line += chars[start..at].iter().filter(|c| **c == '\n').count();
    }
    tokens
}

fn end_of_string(chars: &[char], start: usize) -> usize {
    let mut at = start + 1;
    while at < chars.len() && chars[at] != '"' {
        at += if chars[at] == '\\' { 2 } else { 1 };
    }
    at + 1
}

/// The tokens without the items behind `#[cfg(test)]`.
pub fn without_tests(tokens: Vec<Token>) -> Vec<Token> {
    const TEST: [&str; 7] = ["#", "[", "cfg", "(", "test", ")", "]"];
    let is_test = |at: usize| {
        let found = tokens[at..].iter().map(|token| token.text.as_str());
        found.take(TEST.len()).eq(TEST)
    };
    let mut skipped = vec![false; tokens.len()];
    let mut at = 0;
    while at < tokens.len() {
        let end = if is_test(at) { end_of_item(&tokens, at + TEST.len()) } else { at };
        skipped[at..end].fill(true);
        at = end.max(at + 1);
    }
    tokens
        .into_iter()
        .zip(skipped)
        .filter(|(_, skipped)| !skipped)
        .map(|(token, _)| token)
        .collect()
}

/// The end of the item that begins at `start`: after its braces, or its semicolon.
fn end_of_item(tokens: &[Token], start: usize) -> usize {
    let mut depth = 0_usize;
    for (at, token) in tokens.iter().enumerate().skip(start) {
        match token.text.as_str() {
            "{" | "(" | "[" => depth += 1,
            "}" if depth == 1 => return at + 1,
            "}" if depth == 0 => return at,
            "}" | ")" | "]" => depth -= 1,
            ";" if depth == 0 => return at + 1,
            _ => {}
        }
    }
    tokens.len()
}

/// The functions outside any block, with their tokens.
pub fn functions(tokens: &[Token]) -> BTreeMap<String, Range<usize>> {
    let (mut functions, mut depth, mut at) = (BTreeMap::new(), 0_usize, 0);
    while at < tokens.len() {
        match tokens[at].text.as_str() {
            "{" => depth += 1,
            "}" => depth = depth.saturating_sub(1),
            "fn" if depth == 0 && tokens.get(at + 1).is_some_and(|name| is_name(&name.text)) => {
                let end = end_of_item(tokens, at);
                functions.insert(tokens[at + 1].text.clone(), at + 2..end);
                at = end;
                continue;
            }
            _ => {}
        }
        at += 1;
    }
    functions
}

/// The index of the semicolon that ends a `use`.
pub fn end_of_use(tokens: &[Token], start: usize) -> usize {
    let length = tokens[start..].iter().take_while(|token| token.text != ";").count();
    start + length
}

/// Everything that a file imports: its name in this file, and its path.
pub fn imports(tokens: &[Token]) -> Vec<(String, Vec<String>)> {
    let uses = tokens.iter().enumerate().filter(|(_, token)| token.text == "use");
    let leaves = uses.flat_map(|(at, _)| use_leaves(tokens, at + 1..end_of_use(tokens, at)));
    leaves.map(|(_, name, path)| (name, path)).collect()
}

/// The leaves of a `use` tree: the index of the token, the name and the path of each.
pub fn use_leaves(tokens: &[Token], range: Range<usize>) -> Vec<(usize, String, Vec<String>)> {
    let mut leaves = Vec::new();
    let (mut path, mut outer) = (Vec::<String>::new(), Vec::new());
    let mut end_leaf = |path: &Vec<String>, at: usize, name: Option<&str>| {
        let mut path = path.clone();
        if path.len() > 1 && path.last().is_some_and(|last| last == "self") {
            path.pop();
        }
        let Some(last) = path.last().cloned() else { return };
        if last == "*" {
            path.pop();
        }
        let name = name.map_or(last, str::to_owned);
        leaves.push((at, name, path));
    };
    let (mut at, mut pending) = (range.start, None);
    while at < range.end {
        match tokens[at].text.as_str() {
            "::" => {}
            "{" => {
                outer.push(path.clone());
                pending = None;
            }
            separator @ ("," | "}") => {
                if let Some(place) = pending.take() {
                    end_leaf(&path, place, None);
                }
                path = outer.last().cloned().unwrap_or_default();
                if separator == "}" {
                    outer.pop();
                }
            }
            "as" => {
                end_leaf(&path, at, Some(&tokens[at + 1].text));
                pending = None;
                at += 1;
            }
            segment => {
                path.push(segment.to_owned());
                pending = Some(at);
            }
        }
        at += 1;
    }
    if let Some(place) = pending {
        end_leaf(&path, place, None);
    }
    leaves
}

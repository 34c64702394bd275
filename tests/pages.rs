//! Holds what the pages tell the reader to type to the program, and what they say it prints to what it prints.
//!
//! A block marked `console` is a session: each line that begins with `$ ` is run, in order and in one shell, in a folder
//! `try` within a clone, and what follows is what it must print. A line `...` stands for any lines, `…` within a line for
//! any text. In such a page a block marked `sql duckdb` is asked too, and the table behind it is its answer. Blocks of
//! other kinds are only read, for command lines and flags that do not exist.

mod support;

use flowarc::cli;
use std::collections::BTreeSet;
use std::ffi::OsString;
use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use support::duckdb;

#[test]
fn the_sessions_in_the_pages_are_what_the_program_says() {
    let pages: Vec<_> = pages().into_iter().filter(|page| !steps(&read(page)).is_empty()).collect();
    assert!(pages.len() >= 3, "only {pages:?} have sessions");
    for page in pages {
        play(&page);
    }
}

#[test]
fn every_command_line_in_the_pages_is_one_that_the_program_takes() {
    let (mut seen, mut refused) = (0, Vec::new());
    for page in pages() {
        let (text, mut variables) = (read(&page), Vec::new());
        for block in blocks(&text).iter().filter(|b| ["sh", "console"].contains(&b.kind)) {
            for line in block.lines.iter().filter_map(|line| command_of(block.kind, line)) {
                variables.extend(assignment(line));
                let line = variables.iter().fold(line.to_owned(), |line, (name, value)| line.replace(name, value));
                for words in command_lines(&line) {
                    seen += 1;
                    if let Err(why) = taken(&words, &[]) {
                        refused.push(format!("{}: {line}\n{why}", page.display()));
                    }
                }
            }
        }
        // In running text a command may stand without what it works on.
        for code in inline_code(&text).filter(|code| code.starts_with("flowarc ")) {
            for words in command_lines(code) {
                use clap::error::ErrorKind::{
                    DisplayHelpOnMissingArgumentOrSubcommand, MissingRequiredArgument, MissingSubcommand,
                };
                seen += 1;
                let partly = [MissingRequiredArgument, MissingSubcommand, DisplayHelpOnMissingArgumentOrSubcommand];
                if let Err(why) = taken(&words, &partly) {
                    refused.push(format!("{}: `{code}`\n{why}", page.display()));
                }
            }
        }
    }
    assert!(refused.is_empty(), "{}", refused.join("\n"));
    assert!(seen > 60, "only {seen} command lines were found");
}

#[test]
fn every_flag_that_the_pages_name_exists() {
    let mut flags: BTreeSet<String> = ["help", "version", "gotm"].map(str::to_owned).into();
    collect_flags(&cli::command(), &mut flags);
    // Of gotm, whose grammar is its own, and of the tools that the pages speak of.
    let others = "packetcutoff timeinterval write features corpus differences";
    flags.extend(others.split(' ').map(str::to_owned));
    let mut unknown = Vec::new();
    for page in pages() {
        for code in inline_code(&read(&page)) {
            let Some(flag) = code.strip_prefix("--").or_else(|| code.strip_prefix('-')) else { continue };
            let name = flag.split([' ', '=']).next().unwrap();
            // One letter is another tool's, as `-r` of tcpdump is.
            let is_name = name.len() > 1 && name.chars().all(|c| c.is_ascii_lowercase() || "-.".contains(c));
            if is_name && !flags.contains(name) {
                unknown.push(format!("{} names the flag {code}", page.display()));
            }
        }
    }
    assert!(unknown.is_empty(), "{}", unknown.join("\n"));
}

#[test]
fn a_line_of_a_shell_is_cut_into_its_commands() {
    let line = "sudo FOO=1 target/release/flowarc get a \"$(flowarc find a --limit 1)\" 2>log | tcpdump -r - # flowarc x";
    assert_eq!(command_lines(line), [vec!["find", "a", "--limit", "1"], vec!["get", "a", "VALUE"]]);
    assert_eq!(
        command_lines("flowarc capture --class 'dns=port 53:all' -o x && ls"),
        [["capture", "--class", "dns=port 53:all", "-o", "x"]]
    );
    assert!(taken(&["show", "--nonsense"].map(str::to_owned), &[]).is_err());
    assert!(taken(&["-datadir=x", "-stream"].map(str::to_owned), &[]).is_ok());
    assert!(taken(&["-datadirs=x"].map(str::to_owned), &[]).is_err());
}

#[test]
fn a_session_that_says_something_else_is_told_apart() {
    let said = ["one 17 ms", "two", "three", "four"];
    for (expected, same) in [
        (&["one … ms", "...", "four"][..], true),
        (&["one 17 ms", "two", "three", "four"], true),
        (&["..."], true),
        (&["one … s", "..."], false),
        (&["one 17 ms", "two"], false),
        (&["...", "two"], false),
    ] {
        assert_eq!(agree(expected, &said), same, "{expected:?}");
    }
}

/// A block between two fences.
struct Block<'a> {
    kind: &'a str,
    lines: Vec<&'a str>,
    /// The table behind it.
    table: Vec<&'a str>,
    /// Its number in the page, from 1, of the line behind the fence.
    line: usize,
}

fn blocks(text: &str) -> Vec<Block<'_>> {
    let mut blocks = Vec::new();
    let mut lines = text.lines().enumerate().peekable();
    while let Some((number, line)) = lines.next() {
        let Some(kind) = line.strip_prefix("```") else { continue };
        let content = lines.by_ref().map(|(_, line)| line).take_while(|line| *line != "```").collect();
        let mut table = Vec::new();
        while let Some((_, row)) = lines.next_if(|(_, row)| row.is_empty() && table.is_empty() || row.starts_with('|')) {
            table.extend(Some(row).filter(|row| !row.is_empty()));
        }
        blocks.push(Block { kind, lines: content, table, line: number + 2 });
    }
    blocks
}

/// What a page has its reader do.
struct Step<'a> {
    line: usize,
    /// A command, or a query.
    what: String,
    is_query: bool,
    expected: Vec<&'a str>,
}

/// The steps of a page that has sessions; none of one that has not.
fn steps(text: &str) -> Vec<Step<'_>> {
    let blocks = blocks(text);
    let mut steps: Vec<Step<'_>> = Vec::new();
    if !blocks.iter().any(|block| block.kind == "console") {
        return steps;
    }
    for block in blocks {
        if block.kind == "sql duckdb" {
            steps.push(Step { line: block.line, what: block.lines.join("\n"), is_query: true, expected: block.table });
        } else if block.kind == "console" {
            let mut goes_on = false;
            for (i, line) in block.lines.iter().enumerate() {
                let command = line.strip_prefix("$ ");
                if let Some(command) = command {
                    steps.push(Step { line: block.line + i, what: command.to_owned(), is_query: false, expected: vec![] });
                } else if let Some(step) = steps.last_mut().filter(|_| goes_on) {
                    step.what = format!("{}\n{line}", step.what);
                } else {
                    steps.last_mut().expect("a session begins with a command").expected.push(line);
                }
                goes_on = (command.is_some() || goes_on) && line.ends_with('\\');
            }
        }
    }
    steps
}

/// Runs a page's sessions in a folder of its own, and compares.
fn play(page: &Path) {
    let text = read(page);
    let mut steps = steps(&text);
    let python =
        if steps.iter().any(|s| s.is_query) { duckdb::python(&format!("the queries of {}", page.display())) } else { None };
    steps.retain(|step| !step.is_query || python.is_some());

    for tool in ["tshark", "tcpdump"] {
        if steps.iter().any(|step| step.what.contains(tool)) && !found(tool) {
            assert!(std::env::var("CI").as_deref() != Ok("true"), "CI must run the sessions of {} with {tool}", page.display());
            eprintln!("SKIPPED: the sessions of {}: need {tool}", page.display());
            return;
        }
    }

    let clone = tempfile::tempdir().unwrap();
    for name in ["scripts", "testdata", "tests"] {
        symlink(root().join(name), clone.path().join(name)).unwrap();
    }
    let folder = clone.path().join("try");
    fs::create_dir(&folder).unwrap();
    let out = tempfile::tempdir().unwrap();
    let mut script = String::new();
    for (i, step) in steps.iter().enumerate() {
        let file = out.path().join(i.to_string());
        let what = if step.is_query {
            fs::write(file.with_extension("sql"), &step.what).unwrap();
            format!("\"$FLOWARC_PYTHON\" -c \"$FLOWARC_QUERY\" {}.sql", file.display())
        } else {
            step.what.clone()
        };
        script += &format!("{{ {what}\n}} >{} 2>&1 </dev/null\n", file.display());
    }
    let binary = Path::new(env!("CARGO_BIN_EXE_flowarc")).parent().unwrap();
    let path = format!("{}:{}:/usr/sbin:/sbin", binary.display(), std::env::var("PATH").unwrap());
    let mut shell = Command::new("bash");
    shell.arg("-c").arg(&script).current_dir(&folder).env_clear();
    shell.env("PATH", path).env("HOME", out.path()).env("TZ", "UTC").env("LC_ALL", "C.UTF-8");
    shell.env("FLOWARC_PYTHON", python.unwrap_or_default()).env("FLOWARC_QUERY", QUERY);
    let ended = shell.stdin(Stdio::null()).output().unwrap();
    for (i, step) in steps.iter().enumerate() {
        let said = fs::read_to_string(out.path().join(i.to_string())).unwrap_or_default();
        let said: Vec<_> = said.lines().map(str::trim_end).filter(|line| !NOISE.iter().any(|n| line.starts_with(n))).collect();
        let expected: Vec<_> = step.expected.iter().map(|line| line.trim_end()).collect();
        // A query without a table must find something.
        let right = if step.is_query && expected.is_empty() { said.len() > 2 } else { agree(&expected, &said) };
        let at = format!("{}:{}", page.display(), step.line);
        assert!(right, "{at}: {}\nsays:\n{}\nand not:\n{}\n({ended:?})", step.what, said.join("\n"), expected.join("\n"));
    }
}

fn found(tool: &str) -> bool {
    ["/usr/bin", "/usr/sbin", "/bin", "/sbin"].iter().any(|folder| Path::new(folder).join(tool).exists())
}

/// Prints the answer as a table of the pages.
const QUERY: &str = "
import duckdb, sys
answer = duckdb.sql('select columns(*)::varchar from (' + open(sys.argv[1]).read() + ')')
row = lambda cells: print('|', ' | '.join(map(str, cells)), '|')
row(answer.columns)
print('|---' * len(answer.columns) + '|')
for cells in answer.fetchall():
    row(cells)
";

/// What tools say of where they run.
const NOISE: [&str; 1] = ["Running as user \"root\""];

fn agree(expected: &[&str], said: &[&str]) -> bool {
    match expected {
        [] => said.is_empty(),
        ["...", rest @ ..] => (0..=said.len()).any(|skipped| agree(rest, &said[skipped..])),
        [first, rest @ ..] => said.split_first().is_some_and(|(line, said)| same_line(first, line) && agree(rest, said)),
    }
}

fn same_line(expected: &str, said: &str) -> bool {
    let Some((before, after)) = expected.split_once('…') else { return expected == said };
    said.strip_prefix(before).is_some_and(|rest| {
        let cuts = rest.char_indices().map(|(at, _)| at).chain([rest.len()]);
        cuts.into_iter().any(|at| same_line(after, &rest[at..]))
    })
}

/// The part of a line that a shell is given.
fn command_of<'a>(kind: &str, line: &'a str) -> Option<&'a str> {
    if kind == "console" { line.strip_prefix("$ ") } else { Some(line) }
}

/// `$NAME` and what a line sets it to, where that is a fixed text.
fn assignment(line: &str) -> Option<(String, String)> {
    let (name, value) = line.split_once('=')?;
    let is_name = !name.is_empty() && name.chars().all(|c| c.is_ascii_uppercase());
    (is_name && !value.contains('$')).then(|| (format!("${name}"), value.trim_matches('"').to_owned()))
}

/// The arguments of each flowarc on a line, those within `$(...)` first, and `VALUE` in their place.
fn command_lines(line: &str) -> Vec<Vec<String>> {
    if let Some((before, rest)) = line.split_once("$(")
        && let Some((inner, after)) = rest.split_once(')')
    {
        let mut lines = command_lines(inner);
        lines.extend(command_lines(&format!("{before}VALUE{after}")));
        return lines;
    }
    let mut commands = vec![Vec::new()];
    for word in shell_words(line) {
        match word.as_str() {
            "|" | "&&" | ";" | "&" => commands.push(Vec::new()),
            _ => commands.last_mut().expect("never empty").push(word),
        }
    }
    commands.into_iter().filter_map(arguments).collect()
}

/// What follows flowarc's name, if that is what is run.
fn arguments(mut words: Vec<String>) -> Option<Vec<String>> {
    words.retain(|word| word != "..." && word != "…" && !word.starts_with('>') && !word.starts_with("2>"));
    let before =
        |word: &String| word == "sudo" || word == "nice" || word.split('=').next().is_some_and(|n| n != word && !n.contains('/'));
    let at = words.iter().position(|word| !before(word))?;
    let name = words[at].rsplit('/').next()?;
    (name == "flowarc" && words.len() > at + 1).then(|| words.split_off(at + 1))
}

/// Words as a shell cuts them: quotes, comments, and operators as words of their own.
fn shell_words(line: &str) -> Vec<String> {
    let (mut words, mut word, mut quote) = (Vec::new(), None::<String>, None);
    for c in line.chars() {
        match (quote, c) {
            (Some(q), _) if c == q => quote = None,
            (Some(_), _) => word.get_or_insert_default().push(c),
            (None, '\'' | '"') => {
                quote = Some(c);
                word.get_or_insert_default();
            }
            (None, '#') if word.is_none() => break,
            (None, '|' | ';') => {
                words.extend(word.take());
                words.push(c.to_string());
            }
            (None, ' ') => words.extend(word.take()),
            (None, _) => word.get_or_insert_default().push(c),
        }
    }
    words.extend(word);
    words
}

/// Whether the program takes these arguments, or at least is only told too little, in one of these ways.
fn taken(words: &[String], partly: &[clap::error::ErrorKind]) -> Result<(), String> {
    if words.iter().any(|word| word == "--gotm") {
        return Ok(());
    }
    let args: Vec<OsString> = words.iter().map(OsString::from).collect();
    if cli::compat::is_spoken(&OsString::from("flowarc"), &args) {
        return match cli::compat::parse(&args, |_| None) {
            Err(exit) if exit.code != 0 => Err(exit.message),
            _ => Ok(()),
        };
    }
    match cli::command().try_get_matches_from([OsString::from("flowarc")].into_iter().chain(args)) {
        Err(e) if e.exit_code() != 0 && !partly.contains(&e.kind()) => Err(e.to_string()),
        _ => Ok(()),
    }
}

fn collect_flags(command: &clap::Command, flags: &mut BTreeSet<String>) {
    flags.extend(command.get_arguments().filter_map(|arg| arg.get_long().map(str::to_owned)));
    command.get_subcommands().for_each(|c| collect_flags(c, flags));
}

/// What stands between backticks in running text.
fn inline_code(text: &str) -> impl Iterator<Item = &str> {
    let mut fenced = false;
    text.lines()
        .filter(move |line| {
            let fence = line.starts_with("```");
            fenced ^= fence;
            !fence && !fenced
        })
        .flat_map(|line| line.split('`').skip(1).step_by(2))
}

fn pages() -> Vec<PathBuf> {
    let mut pages: Vec<_> = ["README.md", "CONTRIBUTING.md", "CHANGELOG.md"].map(PathBuf::from).into();
    for entry in fs::read_dir(root().join("docs")).unwrap() {
        let name = entry.unwrap().file_name();
        pages.extend(Some(Path::new("docs").join(name)).filter(|p| p.extension().is_some_and(|e| e == "md")));
    }
    pages.sort();
    pages
}

fn read(page: impl AsRef<Path>) -> String {
    fs::read_to_string(root().join(page)).unwrap()
}

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

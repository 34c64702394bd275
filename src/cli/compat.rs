//! The predecessor's command line: Go's flag grammar, and the environment behind it.
//!
//! Reference: pkg.go.dev/flag#hdr-Command_line_flag_syntax. Flags, value grammars and defaults are those of
//! [`super::headers`]; each argument is rewritten as `--name=value` and given to the same parser. Nothing here touches the
//! process: arguments and environment come in, and what is to be logged goes out.

use super::Exit;
use super::headers::{Form, HeadersArgs, env_name};
use super::values::{BadValue, parse_bool};
use clap::{Arg, Command, FromArgMatches};
use std::collections::{BTreeMap, BTreeSet};
use std::error::Error;
use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::Path;

/// What arguments and environment say.
#[derive(Clone, Debug)]
pub struct Parsed {
    /// The values, in the form of their types.
    pub args: HeadersArgs,
    /// What the operator should know, in order, once logs can be written.
    pub notes: Vec<Note>,
}

/// A line for the log.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Note {
    /// A flag that the environment has set.
    FromEnv {
        /// The flag.
        flag: String,
        /// Its value.
        value: String,
    },
    /// A variable that the command line overrides.
    EnvOverridden {
        /// The flag.
        flag: String,
        /// The variable.
        variable: String,
        /// The variable's value, which is not used.
        value: String,
    },
    /// Arguments after the flags, which mean nothing.
    Ignored {
        /// The arguments, separated by blanks.
        arguments: String,
    },
}

/// Whether this command line is written for the predecessor.
///
/// It is if the program is called `packet-headers`, or if the first argument begins with a dash and is more than a lone
/// request for help or version.
pub fn is_spoken(program: &OsStr, args: &[OsString]) -> bool {
    let called_so = Path::new(program).file_name().is_some_and(|name| name == "packet-headers");
    let lone_request = matches!(args, [only] if ["--help", "-h", "--version", "-V"].iter().any(|r| only == r));
    called_so || (!lone_request && args.first().is_some_and(|a| a.as_bytes().starts_with(b"-")))
}

/// Parses arguments, without the program's name, and then what the environment adds.
///
/// `env` looks up a variable; one that is set and empty counts.
///
/// # Errors
/// Exit code 0 with the usage text for `-h` and `-help`; 2 for the first argument that breaks the grammar; 1 for the last
/// variable, in the order of flag names, that does, and for byte counts that no 64-bit integer holds.
pub fn parse(args: &[OsString], env: impl Fn(&str) -> Option<OsString>) -> Result<Parsed, Exit> {
    let mut line = Line::new();
    let rest = line.take_flags(args)?;
    line.judge_rest(rest)?;
    line.take_env(env)?;
    let matches = HeadersArgs::table().try_get_matches_from(line.canonical).map_err(|e| Exit::new(2, e.to_string()))?;
    let mut args = HeadersArgs::from_arg_matches(&matches).map_err(|e| Exit::new(2, e.to_string()))?;
    args.form = Form::Compat;
    Ok(Parsed { args, notes: line.notes })
}

/// A command line on its way to the one that clap understands.
struct Line {
    /// The flags by name, and so in the order in which the environment is asked.
    flags: BTreeMap<String, Arg>,
    canonical: Vec<OsString>,
    /// Flags seen on the command line, by name.
    given: BTreeSet<String>,
    notes: Vec<Note>,
}

impl Line {
    fn new() -> Self {
        let table = HeadersArgs::table();
        let flags = table.get_arguments().filter_map(|a| Some((a.get_long()?.to_owned(), a.clone()))).collect();
        Self { flags, canonical: Vec::new(), given: BTreeSet::new(), notes: Vec::new() }
    }

    /// Takes flags up to the first argument that is none, and returns what is left.
    fn take_flags<'a>(&mut self, mut args: &'a [OsString]) -> Result<&'a [OsString], Exit> {
        while let [first, rest @ ..] = args {
            let text = match first.as_bytes() {
                b"--" => return Ok(rest),
                [b'-', b'-', text @ ..] => text,
                [b'-', text @ ..] if !text.is_empty() => text,
                _ => return Ok(args),
            };
            if let [] | [b'-' | b'=', ..] = text {
                return Err(Exit::new(2, format!("{first:?} is not a flag: want -name or -name=value")));
            }
            let (name, attached) = match text.iter().position(|&b| b == b'=') {
                Some(at) => (&text[..at], Some(OsStr::from_bytes(&text[at + 1..]))),
                None => (text, None),
            };
            let name = String::from_utf8_lossy(name).into_owned();
            let Some(arg) = self.flags.get(&name) else {
                return Err(if name == "h" || name == "help" { usage() } else { unknown(&name) });
            };
            let next = rest.first().map(OsString::as_os_str);
            let (value, rest) = match (attached, next) {
                (Some(value), _) => (value, rest),
                // `-stream true` reads as what it says; the predecessor stopped here and ignored every later flag.
                (None, Some(word)) if is_switch(arg) && word.to_str().is_some_and(|w| parse_bool(w).is_ok()) => {
                    (word, &rest[1..])
                }
                (None, _) if is_switch(arg) => (OsStr::new("true"), rest),
                (None, Some(word)) => (word, &rest[1..]),
                (None, None) => return Err(Exit::new(2, format!("flag -{name} needs a value: -{name}=VALUE"))),
            };
            self.set(&name, value).map_err(|bad| Exit::new(bad.code, format!("flag -{name}={value:?}: {}", bad.reason)))?;
            self.given.insert(name);
            args = rest;
        }
        Ok(args)
    }

    /// Arguments after the flags mean nothing, but flags among them were meant.
    fn judge_rest(&mut self, rest: &[OsString]) -> Result<(), Exit> {
        if let Some(flag) = rest.iter().find(|a| a.len() > 1 && a.as_bytes().starts_with(b"-")) {
            let first = &rest[0];
            return Err(Exit::new(
                2,
                format!("{flag:?} would be ignored, because flags end before {first:?}: put it first, or leave it out"),
            ));
        }
        if !rest.is_empty() {
            let arguments = rest.join(OsStr::new(" ")).to_string_lossy().into_owned();
            self.notes.push(Note::Ignored { arguments });
        }
        Ok(())
    }

    /// Asks the environment for every flag; reports the last bad value.
    fn take_env(&mut self, env: impl Fn(&str) -> Option<OsString>) -> Result<(), Exit> {
        let mut last_error = Ok(());
        let names: Vec<String> = self.flags.keys().cloned().collect();
        for flag in names {
            let variable = env_name(&flag);
            let Some(value) = env(&variable) else { continue };
            let shown = value.to_string_lossy().into_owned();
            if self.given.contains(&flag) {
                self.notes.push(Note::EnvOverridden { flag, variable, value: shown });
            } else if let Err(bad) = self.set(&flag, &value) {
                let message = format!("environment variable {variable}={value:?} for flag -{flag}: {}", bad.reason);
                last_error = Err(Exit::new(1, message));
            } else {
                self.notes.push(Note::FromEnv { flag, value: shown });
            }
        }
        last_error
    }

    /// Adds a flag with its value, if the value has the right form.
    fn set(&mut self, name: &str, value: &OsStr) -> Result<(), Bad> {
        let argument = OsString::from_vec([b"--", name.as_bytes(), b"=", value.as_bytes()].concat());
        HeadersArgs::table().try_get_matches_from([&argument]).map_err(|e| Bad::new(&e, self.flags.get(name)))?;
        self.canonical.push(argument);
        Ok(())
    }
}

/// Why a value was refused.
struct Bad {
    code: u8,
    reason: String,
}

impl Bad {
    fn new(error: &clap::Error, arg: Option<&Arg>) -> Self {
        let source = error.source();
        // The predecessor notices such a number late, when its own flag grammar has already accepted it.
        let late = source.and_then(|s| s.downcast_ref()) == Some(&BadValue::ByteCountRange);
        let reason = source.map_or_else(|| wanted(arg), ToString::to_string);
        Self { code: if late { 1 } else { 2 }, reason }
    }
}

/// What would be right, where clap says nothing but "invalid".
fn wanted(arg: Option<&Arg>) -> String {
    let names: Vec<String> =
        arg.map(Arg::get_possible_values).unwrap_or_default().iter().map(|v| v.get_name().to_owned()).collect();
    if names.is_empty() { "not a text in UTF-8".into() } else { format!("want one of {}", names.join(", ")) }
}

/// Whether a flag may stand without a value.
fn is_switch(arg: &Arg) -> bool {
    arg.get_num_args().is_some_and(|n| n.min_values() == 0)
}

fn unknown(name: &str) -> Exit {
    Exit::new(2, format!("flag -{name} does not exist: -help lists those that do"))
}

fn usage() -> Exit {
    let mut table: Command = HeadersArgs::table().override_usage("packet-headers [-name=value]...").after_help(
        "One dash or two, and a value after '=' or as the next word. A flag that is not given takes its value from the \
         environment: ANONYMIZE_IP for -anonymize.ip, and FLOWARC_TMPDIR for -tmpdir or any other flag that packet-headers \
         did not have.",
    );
    Exit::new(0, table.render_help().to_string())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scrub::Anonymize;
    use proptest::prelude::*;
    use std::path::PathBuf;

    #[test]
    fn one_dash_or_two_and_an_equals_sign_or_the_next_word_are_the_same() {
        for line in ["-maxflows 16", "-maxflows=16", "--maxflows 16", "--maxflows=0x10"] {
            assert_eq!(ok(line).args.maxflows.0, 16, "{line}");
        }
    }

    #[test]
    fn a_value_is_judged_even_if_a_later_one_overrides_it() {
        assert_eq!(code("-maxflows=x10 -maxflows=16"), 2);
    }

    #[test]
    fn the_next_word_is_the_value_even_if_it_begins_with_a_dash() {
        let parsed = ok("-datadir -stream -sigtermwait -5s");
        assert_eq!(parsed.args.datadir, PathBuf::from("-stream"));
        assert!(!parsed.args.stream);
        assert_eq!(parsed.args.sigtermwait.as_nanos(), -5_000_000_000);
    }

    #[test]
    fn a_repeated_flag_overrides_and_interfaces_accumulate() {
        let args = ok("-maxheap=1GB -interface=a,b -maxheap=2GB -interface c").args;
        assert_eq!(args.maxheap.0, 2_000_000_000);
        assert_eq!(args.interface, ["a", "b", "c"]);
    }

    #[test]
    fn values_may_be_empty_or_hold_equals_signs() {
        let args = ok("-tcpinfo.eventsocket= -datadir=a=b").args;
        assert_eq!(args.tcpinfo_eventsocket, PathBuf::new());
        assert_eq!(args.datadir, PathBuf::from("a=b"));
    }

    #[test]
    fn a_switch_stands_alone_or_has_a_truth_value() {
        for (line, stream) in [
            ("-stream", true),
            ("--stream=T", true),
            ("-stream=0", false),
            ("-stream true -maxflows=1", true),
            ("-stream false -maxflows=1", false),
            ("-stream -maxflows=1", true),
        ] {
            let args = ok(line).args;
            assert_eq!(args.stream, stream, "{line}");
            assert_eq!(args.maxflows.0, i64::from(line.contains("maxflows")), "{line}");
        }
        assert_eq!(code("-stream=maybe"), 2);
        assert_eq!(code("-stream="), 2);
    }

    #[test]
    fn grammar_errors_exit_with_2() {
        for line in [
            "-bogus",
            "-bogus=1",
            "---stream",
            "-=1",
            "--=1",
            "-maxflows",
            "-maxflows=",
            "-maxflows=many",
            "-captureduration=30",
            "-maxheap=8GiB",
            "-anonymize.ip=foo",
            "-anonymize.ip=",
            "-log.level=loud",
            "-scrub=ttl",
            "-local.addr=host",
            "-Stream",
            "-V",
        ] {
            let exit = parse_line(line, &[]).expect_err(line);
            assert_eq!(exit.code, 2, "{line}");
            assert_eq!(exit.message.lines().count(), 1, "{line}: {exit:?}");
        }
    }

    #[test]
    fn messages_name_flag_value_and_what_would_be_right() {
        for (line, parts) in [
            ("-anonymize.ip=foo", ["-anonymize.ip", "\"foo\"", "none, netblock"]),
            ("-captureduration=30", ["-captureduration", "\"30\"", "30s"]),
            ("-stream=maybe", ["-stream", "\"maybe\"", "true or false"]),
            ("-bogus=1", ["-bogus", "does not exist", "-help"]),
        ] {
            let message = parse_line(line, &[]).expect_err(line).message;
            assert!(parts.iter().all(|p| message.contains(p)), "{message}");
        }
    }

    #[test]
    fn a_byte_count_beyond_64_bits_exits_with_1() {
        assert_eq!(code("-maxheap=99999999999999999999"), 1);
    }

    #[test]
    fn help_exits_with_0_unless_an_error_comes_first() {
        for line in ["-h", "--help", "-help=x", "-stream -h -bogus"] {
            let exit = parse_line(line, &[]).expect_err(line);
            assert_eq!(exit.code, 0, "{line}");
            assert!(exit.message.contains("--uuidwaitduration"), "{line}");
        }
        assert_eq!(code("-bogus -h"), 2);
        assert_eq!(code("-maxflows=x -h"), 2);
    }

    #[test]
    fn arguments_after_the_flags_are_ignored_with_a_note() {
        for (line, arguments) in [("-stream x y", "x y"), ("-stream -- x", "x"), ("-stream -", "-"), ("-maxflows=1 - x", "- x")] {
            assert_eq!(ok(line).notes, [Note::Ignored { arguments: arguments.into() }], "{line}");
        }
        assert_eq!(ok("-stream --").notes, []);
    }

    #[test]
    fn flags_that_would_be_swallowed_are_an_error() {
        for line in ["-stream x -maxflows=1", "-- -stream", "- -stream", "-stream maybe --datadir=/x"] {
            assert_eq!(code(line), 2, "{line}");
        }
    }

    #[test]
    fn the_environment_fills_in_what_the_command_line_left_out() {
        let env = [("ANONYMIZE_IP", "netblock"), ("INTERFACE", "a,b"), ("PROMETHEUSX_LISTEN_ADDRESS", ":1"), ("STREAM", "1")];
        let parsed = parse_line("", &env).expect("good values");
        assert_eq!(parsed.args.anonymize_ip, Anonymize::Netblock);
        assert_eq!(parsed.args.interface, ["a", "b"]);
        assert_eq!(parsed.args.listen_address.as_deref(), Some(":1"));
        assert!(parsed.args.stream);
        let flags: Vec<_> = parsed.notes.iter().map(|n| matches!(n, Note::FromEnv { .. })).collect();
        assert_eq!(flags, [true; 4]);
    }

    #[test]
    fn the_command_line_overrides_the_environment_and_says_so() {
        let parsed = parse_line("-maxflows=1 -interface=c", &[("MAXFLOWS", "many"), ("INTERFACE", "a,b")]).expect("overridden");
        assert_eq!(parsed.args.maxflows.0, 1);
        assert_eq!(parsed.args.interface, ["c"]);
        let note = |flag: &str, variable: &str, value: &str| Note::EnvOverridden {
            flag: flag.into(),
            variable: variable.into(),
            value: value.into(),
        };
        assert_eq!(parsed.notes, [note("interface", "INTERFACE", "a,b"), note("maxflows", "MAXFLOWS", "many")]);
    }

    #[test]
    fn a_variable_that_is_set_and_empty_counts() {
        assert_eq!(parse_line("", &[("MAXFLOWS", "")]).expect_err("no integer").code, 1);
        assert_eq!(parse_line("", &[("INTERFACE", "")]).expect("grammatical").args.interface, [""]);
        assert_eq!(parse_line("", &[("DATADIR", "")]).expect("grammatical").args.datadir, PathBuf::new());
    }

    #[test]
    fn of_several_bad_variables_the_last_by_flag_name_is_reported_with_1() {
        let env = [("UUIDWAITDURATION", "5"), ("STREAM", "x"), ("MAXFLOWS", "many")];
        let exit = parse_line("", &env).expect_err("bad values");
        assert_eq!(exit.code, 1);
        assert!(exit.message.contains("UUIDWAITDURATION=\"5\"") && exit.message.contains("-uuidwaitduration"), "{exit:?}");
        assert_eq!(parse_line("-bogus", &env).expect_err("bad line").code, 2, "the command line comes first");
    }

    #[test]
    fn tmpdir_is_not_taken_from_the_environment() {
        assert_eq!(parse_line("", &[("TMPDIR", "/tmp")]).expect("not looked at").args.tmpdir, None);
        assert_eq!(ok("-tmpdir=/x").args.tmpdir, Some(PathBuf::from("/x")));
    }

    #[test]
    fn paths_need_not_be_utf_8() {
        let parsed = parse(&[OsString::from_vec(b"-datadir=/\xff".to_vec())], |_| None).expect("a path");
        assert_eq!(parsed.args.datadir.as_os_str().as_bytes(), b"/\xff");
        assert_eq!(parse(&[OsString::from_vec(b"-maxflows=\xff".to_vec())], |_| None).expect_err("no integer").code, 2);
    }

    #[test]
    fn the_grammar_is_chosen_by_name_or_first_argument() {
        for (program, line, compat) in [
            ("/usr/bin/packet-headers", "", true),
            ("packet-headers", "--version", true),
            ("flowarc", "", false),
            ("flowarc", "headers -stream", false),
            ("flowarc", "--help", false),
            ("flowarc", "-h", false),
            ("flowarc", "--version", false),
            ("flowarc", "-V", false),
            ("flowarc", "-help", true),
            ("flowarc", "--datadir=/x", true),
            ("flowarc", "-stream", true),
            ("flowarc", "-h -stream", true),
        ] {
            assert_eq!(is_spoken(OsStr::new(program), &words(line)), compat, "{program} {line}");
        }
    }

    proptest! {
        #[test]
        fn no_command_line_panics(args in prop::collection::vec(prop_oneof![
            "-{0,3}(stream|maxflows|interface|datadir|h|x)?(=[a-z0-9,]{0,3})?",
            "\\PC{0,8}",
        ], 0..6)) {
            let args: Vec<OsString> = args.into_iter().map(OsString::from).collect();
            if let Err(exit) = parse(&args, |_| None) {
                prop_assert!(exit.code <= 2 && !exit.message.is_empty());
            }
        }
    }

    fn ok(line: &str) -> Parsed {
        parse_line(line, &[]).expect(line)
    }

    fn code(line: &str) -> u8 {
        parse_line(line, &[]).expect_err(line).code
    }

    fn parse_line(line: &str, env: &[(&str, &str)]) -> Result<Parsed, Exit> {
        parse(&words(line), |name| env.iter().find(|(n, _)| *n == name).map(|(_, v)| v.into()))
    }

    fn words(line: &str) -> Vec<OsString> {
        line.split_whitespace().map(OsString::from).collect()
    }
}

//! `flowarc man`: the manual pages, out of the same tables as `--help`.

use super::headers::path;
use crate::admin::VERSION;
use anyhow::{Context, Result};
use clap::{Args, Command};
use clap_mangen::Man;
use clap_mangen::roff::{Roff, bold, roman};
use std::fs;
use std::io;
use std::path::PathBuf;

/// What was typed for `flowarc man`.
#[derive(Args, Clone, Debug)]
pub struct ManArgs {
    /// Folder to write them to; made if it is missing
    #[arg(value_name = "DIR", value_parser = path())]
    pub dir: PathBuf,
}

/// Writes a page for the command and one for each of its subcommands.
///
/// # Errors
/// Fails where a file cannot be written.
pub fn run(args: &ManArgs, command: Command) -> Result<()> {
    let dir = args.dir.display();
    fs::create_dir_all(&args.dir).with_context(|| format!("make the folder {dir}"))?;
    for (name, text) in pages(command)? {
        fs::write(args.dir.join(&name), text).with_context(|| format!("write {dir}/{name}"))?;
    }
    Ok(())
}

/// File names and texts, in the order of the subcommands.
fn pages(command: Command) -> Result<Vec<(String, Vec<u8>)>> {
    let mut command = command.disable_help_subcommand(true);
    command.build();
    let mut pages = Vec::new();
    collect(&command, None, &mut pages)?;
    Ok(pages)
}

fn collect(command: &Command, parent: Option<&str>, pages: &mut Vec<(String, Vec<u8>)>) -> Result<()> {
    let name = command.get_display_name().unwrap_or_else(|| command.get_name());
    pages.push((format!("{name}.{SECTION}"), page(command, name, parent)?));
    for subcommand in command.get_subcommands() {
        collect(subcommand, Some(name), pages)?;
    }
    Ok(())
}

fn page(command: &Command, name: &str, parent: Option<&str>) -> io::Result<Vec<u8>> {
    let man = Man::new(command.clone()).section(SECTION);
    // clap_mangen leaves an empty date out, and what follows would take its place. No date: a build must be repeatable.
    let mut page = format!(".TH {} {SECTION} \"\" \"flowarc {VERSION}\" \"flowarc\"\n", name.to_uppercase()).into_bytes();
    man.render_name_section(&mut page)?;
    man.render_synopsis_section(&mut page)?;
    man.render_description_section(&mut page)?;
    let mut options = Vec::new();
    man.render_options_section(&mut options)?;
    page.extend(with_subheadings(command, &String::from_utf8_lossy(&options)).bytes());
    if command.has_subcommands() {
        man.render_subcommands_section(&mut page)?;
    }
    let mut roff = Roff::new();
    if let Some(text) = command.get_after_help() {
        notes(&mut roff, &text.to_string());
    }
    see_also(&mut roff, command, name, parent);
    roff.to_writer(&mut page)?;
    Ok(page)
}

/// Makes the groups of flags subsections of the options, in their own letters: clap_mangen gives each a section in capitals, which
/// also turns "such as 30s" into "SUCH AS 30S". An empty default is no default.
fn with_subheadings(command: &Command, options: &str) -> String {
    let headings: Vec<_> = command.get_arguments().filter_map(|arg| arg.get_help_heading()).collect();
    let line = |line: &str| {
        let title = line.strip_prefix(".SH ").map(|title| title.trim_matches('"'));
        match headings.iter().find(|heading| title.is_some_and(|title| heading.to_uppercase() == title)) {
            Some(heading) => format!(".SS \"{heading}\"\n"),
            None => format!("{line}\n"),
        }
    };
    options.replace(" [default: ]", "").lines().map(line).collect()
}

/// What `--help` says behind the flags: paragraphs, and examples, which keep their lines.
fn notes(roff: &mut Roff, text: &str) {
    let (mut as_typed, mut gap) = (false, false);
    roff.control("SH", [if text.starts_with(EXAMPLES) { "EXAMPLES" } else { "NOTES" }]);
    for (number, line) in text.lines().enumerate() {
        if line == EXAMPLES {
            if number > 0 {
                roff.control("SH", ["EXAMPLES"]);
            }
            gap = false;
        } else if line.is_empty() {
            gap = true;
        } else {
            let indented = line.starts_with(' ');
            if indented != as_typed {
                roff.control(if indented { "nf" } else { "fi" }, []);
                as_typed = indented;
            }
            if gap {
                roff.control("PP", []);
                gap = false;
            }
            roff.text([roman(line)]);
        }
    }
    if as_typed {
        roff.control("fi", []);
    }
}

fn see_also(roff: &mut Roff, command: &Command, name: &str, parent: Option<&str>) {
    let children = command.get_subcommands().map(|child| format!("{name}-{}", child.get_name()));
    let ours = parent.map(str::to_owned).into_iter().chain(children).map(|page| (page, SECTION));
    let others = [("tcpdump", "8"), ("pcap-filter", "7")].map(|(page, section)| (page.to_owned(), section));
    roff.control("SH", ["SEE ALSO"]);
    let mut line = Vec::new();
    for (page, section) in ours.chain(others) {
        if !line.is_empty() {
            line.push(roman(", "));
        }
        line.extend([bold(page), roman(format!("({section})"))]);
    }
    roff.text(line);
}

/// The line of a command's notes that its examples follow.
const EXAMPLES: &str = "Examples:";

/// User commands.
const SECTION: &str = "1";

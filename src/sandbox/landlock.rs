//! Landlock: which files the process can still reach (Documentation/userspace-api/landlock.rst).

use super::{Needs, is_abstract};
use landlock::{
    ABI, Access, AccessFs, AccessNet, BitFlags, CompatLevel, Compatible, LandlockStatus, PathBeneath, PathFd, Ruleset,
    RulesetAttr, RulesetCreated, RulesetCreatedAttr, Scope,
};
use std::path::Path;

/// What could be had.
pub(super) struct Outcome {
    pub(super) files: Result<(), String>,
    pub(super) net: Result<(), String>,
    pub(super) scope: Result<(), String>,
}

/// Restricts the calling thread: files to those that are needed, and no TCP connection made or waited for.
pub(super) fn restrict(needs: &Needs) -> Outcome {
    let abi = match apply(needs) {
        Ok(abi) => abi,
        Err(reason) => return Outcome { files: Err(reason), net: Err("as landlock".into()), scope: Err("as landlock".into()) },
    };
    let since = |least: ABI, version| if abi >= least { Ok(()) } else { Err(format!("needs Linux {version}")) };
    Outcome { files: Ok(()), net: since(ABI::V4, "6.7"), scope: since(ABI::V6, "6.12") }
}

fn apply(needs: &Needs) -> Result<ABI, String> {
    // Where a rename to another folder cannot be allowed, it is always refused: then no file would ever get its name.
    let ruleset = Ruleset::default()
        .set_compatibility(CompatLevel::HardRequirement)
        .handle_access(AccessFs::Refer)
        .map_err(|_| "needs Linux 5.19 with lsm=landlock, and a seccomp profile that allows it")?
        .set_compatibility(CompatLevel::BestEffort)
        .handle_access(AccessFs::from_all(TESTED))
        .and_then(|ruleset| ruleset.handle_access(AccessNet::from_all(TESTED)))
        .and_then(|ruleset| ruleset.scope(scopes(needs)))
        .and_then(Ruleset::create)
        .map_err(|e| e.to_string())?;
    let status = add_rules(ruleset, needs)?.restrict_self().map_err(|e| e.to_string())?;
    match status.landlock {
        LandlockStatus::Available { effective_abi, .. } => Ok(effective_abi),
        LandlockStatus::NotEnabled | LandlockStatus::NotImplemented => Err("needs lsm=landlock at boot".into()),
    }
}

fn add_rules(mut ruleset: RulesetCreated, needs: &Needs) -> Result<RulesetCreated, String> {
    let write = AccessFs::ReadFile
        | AccessFs::ReadDir
        | AccessFs::WriteFile
        | AccessFs::Truncate
        | AccessFs::MakeReg
        | AccessFs::MakeDir
        | AccessFs::RemoveFile
        | AccessFs::RemoveDir
        | AccessFs::Refer;
    for folder in &needs.write {
        add(&mut ruleset, folder, write)?;
    }
    for folder in &needs.listen {
        add(&mut ruleset, folder, AccessFs::MakeSock | AccessFs::RemoveFile)?;
    }
    for path in needs.read.iter().map(AsRef::as_ref).chain(SYSTEM.map(Path::new)) {
        // What is not there is told by who wants it, and a pipe is on no file system and needs no rule.
        let _ = add(&mut ruleset, path, AccessFs::ReadFile | AccessFs::ReadDir);
    }
    Ok(ruleset)
}

fn add(ruleset: &mut RulesetCreated, path: &Path, access: BitFlags<AccessFs>) -> Result<(), String> {
    let said = |e: &dyn std::fmt::Display| format!("{}: {e}", path.display());
    let opened = PathFd::new(path).map_err(|e| said(&e))?;
    // Best effort: a right that the kernel does not know, or that a file does not have, is left out.
    ruleset.add_rule(PathBeneath::new(opened, access)).map(drop).map_err(|e| said(&e))
}

/// Signals and abstract sockets of other programs are out of reach, but for sockets that were asked for.
fn scopes(needs: &Needs) -> BitFlags<Scope> {
    let notify = std::env::var_os("NOTIFY_SOCKET").is_some_and(|path| is_abstract(Path::new(&path)));
    match notify || needs.connect.iter().any(|path| is_abstract(path)) {
        true => Scope::Signal.into(),
        false => Scope::from_all(TESTED),
    }
}

/// The newest rights that the program was tested with; later ones are not handled, and so not refused.
const TESTED: ABI = ABI::V6;

/// What is read while running: the process itself for its metrics, its memory, and its name; interfaces and what they lost.
const SYSTEM: [&str; 3] = ["/proc", "/sys/class/net", "/sys/devices"];

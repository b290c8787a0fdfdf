//! Cargo: a crate of several modules is built on the mount, and what was built runs from there.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::Result;

use super::site::Site;
use super::suite::{Case, Scene, Suite};
use crate::tool::{Need, Running};

const LIMIT: Duration = Duration::from_secs(600);
const MODULES: usize = 24;

/// The suite.
pub(super) struct Cargo;

impl Suite for Cargo {
    fn name(&self) -> &'static str {
        "cargo"
    }

    fn needs(&self) -> Vec<Need> {
        vec![Need::of("cargo")]
    }

    fn run(&self, site: &mut Site<'_>, scene: &Scene<'_>) -> Result<Vec<Case>> {
        let root = site.dir().join("crate");
        write_crate(&root)?;
        let sum = (0..MODULES).map(|module| module * module).sum::<usize>();
        let prints = |sum: usize| format!("test \"$(target/debug/sum)\" = {sum}");
        let mut cases = Vec::new();
        let mut step = |name: &str, script: &str| -> Result<()> {
            let mut command = Command::new("sh");
            command.args(["-ec", script]).current_dir(&root);
            for variable in ["CARGO_TARGET_DIR", "CARGO_BUILD_TARGET_DIR", "RUSTFLAGS"] {
                command.env_remove(variable);
            }
            let ended = Running::start(command, &site.aside("output"))?.wait(LIMIT, scene.stop)?;
            cases.push(Case::of(name, ended.result()));
            Ok(())
        };
        step("build", "cargo build --offline")?;
        step("what was built runs", &prints(sum))?;
        step(
            "nothing to do the second time",
            "cargo build --offline 2>&1 | tee log; ! grep Compiling log",
        )?;
        let change = "sleep 1.1; echo 'pub(crate) fn value() -> usize { 1000000 }' > src/m3.rs; cargo build --offline";
        step(
            "a change is noticed and built",
            &format!("{change}; {}", prints(sum - 9 + 1_000_000)),
        )?;
        step("tests", "cargo test --offline")?;
        if !scene.quick {
            step("release build", "cargo build --offline --release; target/release/sum")?;
        }
        step("clean", "cargo clean; test ! -e target")?;
        Ok(cases)
    }
}

fn write_crate(root: &Path) -> Result<()> {
    fs::create_dir_all(root.join("src"))?;
    fs::write(
        root.join("Cargo.toml"),
        "[package]\nname = \"sum\"\nversion = \"0.1.0\"\nedition = \"2024\"\n[workspace]\n",
    )?;
    let mut main = String::new();
    for module in 0..MODULES {
        main += &format!("mod m{module};\n");
        let text = format!(
            "pub(crate) fn value() -> usize {{ {module} * {module} }}\n\
             #[test]\nfn it_is() {{ assert!(value() > 0 || {module} == 0); }}\n"
        );
        fs::write(root.join(format!("src/m{module}.rs")), text)?;
    }
    let calls: Vec<_> = (0..MODULES).map(|module| format!("m{module}::value()")).collect();
    main += &format!("fn main() {{ println!(\"{{}}\", {}); }}\n", calls.join(" + "));
    fs::write(root.join("src/main.rs"), main)?;
    Ok(())
}

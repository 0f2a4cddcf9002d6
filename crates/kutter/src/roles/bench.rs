//! `kutter bench`: drives any API server through the same phases.

use super::RoleError;

/// Runs all phases and prints their figures.
pub fn run(args: bench::Args) -> Result<(), RoleError> {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let report = runtime.block_on(bench::run(&args))?;
    if args.json {
        println!("{}", serde_json::to_string_pretty(&report)?);
    } else {
        print!("{}", report.table());
    }
    Ok(())
}

//! `cargo dev cluster`: a real Kubernetes on this machine.

use anyhow::Result;
use clap::Subcommand;

use super::steps::Steps;
use crate::cluster::Cluster;
use crate::image::product;

#[derive(Debug, Subcommand)]
pub enum ClusterCommand {
    /// Builds what is missing, starts a Kubernetes and gives it the images of this workspace.
    Up {
        /// Without the images of this workspace: Kubernetes alone.
        #[arg(long)]
        bare: bool,
    },
    /// Ends it and gives the machine back as it was.
    Down,
    /// Says what runs and how to use it.
    Status,
}

/// Does what was asked.
pub fn run(command: &ClusterCommand) -> Result<()> {
    let cluster = Cluster::of_workspace();
    match command {
        ClusterCommand::Up { bare } => {
            let mut steps = Steps::new(&[]);
            up(&cluster, &mut steps, *bare)?;
            steps.finish()?;
            println!("\n{}", cluster.status()?);
            Ok(())
        }
        ClusterCommand::Down => cluster.down(),
        ClusterCommand::Status => {
            print!("{}", cluster.status()?);
            Ok(())
        }
    }
}

/// Starts what does not run.
pub fn up(cluster: &Cluster, steps: &mut Steps, bare: bool) -> Result<()> {
    steps.run("cluster: programs", crate::cluster::programs::provide)?;
    steps.run("cluster: Kubernetes", || cluster.up())?;
    if !bare {
        steps.run("cluster: images", || product::build()?.iter().try_for_each(|image| cluster.import(image)))?;
    }
    Ok(())
}

/// Builds the images and prints their digests.
pub fn build_images() -> Result<()> {
    for image in product::build()? {
        println!("{}\n  {}\n  {}", image.reference, image.digest, image.archive.display());
    }
    Ok(())
}

//! The ContainerRuntime seam: sandboxes, containers, images, exec and logs; with a scripted fake and the contract suite.

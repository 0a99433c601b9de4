"""Medical image files as they come: small cohorts, each with one flaw that people reported (`kinds.KINDS`)."""

"""The command `touchstone`: one file per group of verbs, light to import; each verb imports what it runs when it runs."""

"""What a person looks at: pictures of the support set, tables of runs."""

"""Labels of features put to the test (#13): the texts that name features, tasks, judges and scores."""

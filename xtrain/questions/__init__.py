"""Questions of a study and their answers: from run directories to sentences that say how sure they are."""

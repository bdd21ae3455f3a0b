"""The two architectures behind one interface (`GPT2.forward`), their loss and their scores."""

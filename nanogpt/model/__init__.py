"""The two architectures with one interface (`GPT2.forward`), their loss and their scores."""

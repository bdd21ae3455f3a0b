"""What this machine is: cores, memory, device, and which number formats and compilers are fast on it."""

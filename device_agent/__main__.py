"""`python -m device_agent`, for where the console script is not on the PATH."""

from device_agent.main import main

main()

from diffragan.cli import main

main()

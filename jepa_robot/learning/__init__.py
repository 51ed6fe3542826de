"""How an agent is learned (torch). Nothing at run time imports this."""

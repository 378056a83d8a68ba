"""What is wrong, and where: a fault of the base shows in every rendering, and is told once."""


class Faults:
    def __init__(self):
        self.found = {}
        self.where = ""

    def append(self, fault):
        places = self.found.setdefault(fault, [])
        if self.where not in places:
            places.append(self.where)

    def hold(self, condition, fault):
        if not condition:
            self.append(fault)

    def lines(self):
        return [f"{', '.join(places)}: {fault}" for fault, places in self.found.items()]

package gitops

// TellHead for tests.
var TellHead = (*Service).tellHead

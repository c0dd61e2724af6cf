// Package files tests mounted volumes with the programs that people use on them: backup tools,
// copiers, databases, stress tests; and through kills of the daemon.
package files

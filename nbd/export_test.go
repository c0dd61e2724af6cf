package nbd

// Lost is the number of connections that broke off and have requests under way.
func (s *Server) Lost(export string) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return int(s.exports[export].lost.Load())
}

// Ending is the number of connections of which nothing is read any more, and that are not over.
func (s *Server) Ending(export string) (n int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for c := range s.exports[export].conns {
		if c.ending.Load() {
			n++
		}
	}
	return n
}
